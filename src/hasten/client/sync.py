"""The client of programs that wait."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from ..core.guess import Guess
from . import messages
from .conversation import Unreachable
from .messages import Call, Picture, Priority, Reply
from .transport import RETRIES, TIMEOUT_SECONDS, Endpoint, arguments, reply

T = TypeVar("T")


class Client(Endpoint):
    """Asks the server at `url`, over connections that it keeps; any number of threads may share it. `close` (or `with`) ends them.

    timeout: seconds for one call, repetitions included; the server is told, so that it refuses at once what it cannot do by then.
    retries: times that it asks again where the server cannot be reached, or has too much to do and says when to come again.
    headers: sent with every request. Raises JobError, MissingExtra.
    """

    def __init__(
        self, url: str, *, timeout: float = TIMEOUT_SECONDS, retries: int = RETRIES, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(url, timeout, retries, headers, kind="Client")

    def predict(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """The outputs of `model` by name, [N, ...]. Tensors travel as bytes, both ways.

        inputs: tensors by name, [N, ...]; version: the newest where it is left out; outputs: names, all where they are left out;
        priority: `bulk` has no objective and lets others go first; timeout: seconds, instead of the client's.
        Raises DataError, UnknownModel, Overloaded, NotPossibleHere, HastenError.
        """
        return self._ask(messages.infer(model, inputs, version=version, outputs=outputs, priority=priority), timeout)

    def classify(
        self,
        image: Picture,
        *,
        model: str | None = None,
        top_k: int = 5,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> list[Guess]:
        """The `top_k` most probable classes of one picture, best first.

        image: a path, an encoded picture, or pixels as uint8 [H, W, 3] or [H, W]; model: may be left out where the server has one.
        Raises what `predict` raises.
        """
        return self._ask(messages.classify(image, model=model, top_k=top_k, priority=priority), timeout)

    def metadata(self, model: str, *, version: str | None = None) -> dict[str, Any]:
        """Inputs, outputs and versions of `model`, as the protocol describes them. Raises what `predict` raises."""
        return self._ask(messages.get(messages.model_path(model, version), messages.read_json))

    def ready(self, model: str | None = None, *, version: str | None = None) -> bool:
        """Whether the server, or one of its models, answers. False too where there is no server."""
        path = messages.ready_path(model, version)
        try:
            with self._translated():
                return bool(self._http.get(path, timeout=self._timeout).status_code == 200)
        except Unreachable:
            return False

    def close(self) -> None:
        """Give back the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, call: Call[T], timeout: float | None = None) -> T:
        steps = self._conversation(call, timeout)
        step = next(steps)
        try:
            while True:
                if isinstance(step, float):
                    time.sleep(step)
                    step = steps.send(None)
                    continue
                try:
                    answer = self._send(*step)
                except Unreachable as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            answered: T = end.value
            return answered

    def _send(self, message: messages.Message, left: float) -> Reply:
        with self._translated():
            return reply(self._http.request(**arguments(message, left)))
