"""Who need not come in: requests that the queue would refuse are told so before they are read.

A request that is refused has still been received, and under overload most are. What it costs more than that, those who are answered pay:
so the forecast that its endpoint would ask is asked with its head and its body as they came, and nothing is parsed, copied or decoded.
Whoever might be treated otherwise (a bulk request, a version chosen by chance, a form) comes in, and his endpoint says what is to be said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from ..core.errors import Overloaded, UnknownModel
from ..core.preprocess import QUICK_BYTES
from .infer import may_be_bulk
from .models import Model, Wish
from .problems import answer_to
from .service import Service, now

_Scope = Mapping[str, Any]
_PICTURES = ("image/", "application/octet-stream")
_MOST_ANSWERS = 64


@dataclass(frozen=True, kw_only=True)
class Doorkeeper:
    """Of one server's hot routes."""

    service: Service
    _answers: dict[tuple[str, bool], Response] = field(default_factory=dict)  # by what they say, and whether below /api

    def refusal(self, scope: _Scope, body: bytes | bytearray) -> Response | None:
        """The answer to a request, whole in `body`, that cannot be answered in time; None lets it in."""
        if all(model.idle for model in self.service.models):
            return None
        task = scope["path"].startswith("/api/")
        model = self._model(scope, task)
        if model is None:
            return None
        picture = task and len(body) > 2 * QUICK_BYTES  # a smaller one may need no thread, also as base64
        error = model.too_late(Wish(arrived=now()), self.service.decoded(picture=picture))
        if error is None or not self._is_plain(scope, body, model, task):
            return None
        model.meter.refused(error)
        return self._told(error, task, scope["path"])

    def _is_plain(self, scope: _Scope, body: bytes | bytearray, model: Model, task: bool) -> bool:
        """Whether the forecast is about this request: it is surely an interactive one, and not wrong for another reason."""
        headers = dict(scope["headers"])
        if not body or len(body) > self.service.limits.body_bytes or b"content-encoding" in headers:
            return False
        return _is_plain_task(headers, scope["query_string"], body, model) if task else _is_plain_infer(headers, body)

    def _told(self, error: Overloaded, task: bool, path: str) -> Response:
        """The answer, which is made once: what it says has whole seconds in it and nothing else that changes."""
        key = str(error), task
        if key not in self._answers:
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            self._answers[key] = answer_to(path, error)
        return self._answers[key]

    def _model(self, scope: _Scope, task: bool) -> Model | None:
        """Who would answer, where that is sure before the request is read, and may refuse."""
        names = self.service.models.names
        if task and len(names) > 1:
            return None
        name, version = (names[0], None) if task else (scope["path_params"]["name"], scope["path_params"].get("version"))
        if name in self.service.router.routes:
            return None
        try:
            model = self.service.models.get(name, version)
        except UnknownModel:
            return None
        return model if model.ready and model.objective < math.inf else None


def _is_plain_infer(headers: Mapping[bytes, bytes], body: bytes | bytearray) -> bool:
    """Whether an inference request is surely an interactive one."""
    length = headers.get(b"inference-header-content-length", b"%d" % len(body))
    if not length.isdigit() or len(length) > 11:
        return False
    return not may_be_bulk(body[: int(length)])


def _is_plain_task(headers: Mapping[bytes, bytes], query: bytes, body: bytes | bytearray, model: Model) -> bool:
    """Whether a request to classify is surely an interactive one, and `model` classifies pictures."""
    if model.bundle.manifest.preprocess is None or not model.bundle.manifest.classifier:
        return False
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")
    if kind == "application/json":
        return not may_be_bulk(body)
    return kind.startswith(_PICTURES) and not query
