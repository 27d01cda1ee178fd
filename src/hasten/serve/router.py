"""Which version answers a request, and what is learnt from its answer."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.errors import DataError, JobError
from .batcher import Outputs
from .canary import Canary
from .exchange import CURRENT, Exchange
from .experiment import Experiment
from .feedback import MOST_SAMPLES, Answered, Answers
from .metrics import Metrics
from .models import Model, Models, Wish
from .shadow import Shadow
from .traffic import Traffic, choose

Recall = Callable[[Model], Awaitable[Model]]

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Assignment:
    """One request and the version that answers it, which stays loaded until the request has ended.

    exchange: what is told of it; route: where chance or a sticky key chose the version.
    """

    model: Model
    exchange: Exchange
    router: Router
    route: Route | None = None

    async def infer(self, tensors: Mapping[str, np.ndarray], wish: Wish) -> Outputs:
        """The outputs for checked tensors. Raises what `Model.infer` raises."""
        began = time.monotonic()
        try:
            outputs = await self.model.infer(tensors, wish, witness=self.exchange)
        except Exception as error:
            if self.route is not None and not isinstance(error, DataError):
                self.route.ended(self.model, failed=True)
            raise
        self.router.remember(self, outputs)
        if self.route is not None:
            self.route.answered(self.model, time.monotonic() - began, tensors, outputs)
        return outputs

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says of itself."""
        return {"hasten-model-version": self.model.version}


@dataclass(kw_only=True)
class Route:
    """The traffic of one model, and what was seen of it since its versions were loaded."""

    name: str
    models: Models
    traffic: Traffic
    metrics: Metrics | None = None
    canary: Canary = field(default_factory=Canary)
    shadow: Shadow = field(default_factory=Shadow)
    experiment: Experiment | None = None
    _seen: Mapping[str, object] = field(default_factory=dict)  # the tokens of the versions that all of this is about

    def __post_init__(self) -> None:
        known = [model.version for model in self.models.all_of(self.name)]
        for version in (*self.traffic.split, self.traffic.canary, self.traffic.shadow):
            if version is not None and version not in known:
                raise JobError(f"version of {self.name}", f"must be one of {', '.join(known)}", got=version)
        if self.metrics is not None:
            self.shadow.told = self.metrics.shadow(self.name, self.traffic.shadow or "")

    def choose(self, key: str | None) -> str | None:
        """The version for a request with this sticky key, or with none."""
        self._renew()
        weights = self.weights
        return choose(weights, key) if weights else None

    @property
    def weights(self) -> dict[str, float]:
        """By version, as they are now."""
        return self.traffic.weights(self.models.versions(self.name), canary=not self.canary.rolled_back)

    def answered(self, model: Model, seconds: float, tensors: Mapping[str, np.ndarray], outputs: Outputs) -> None:
        """`model` answered a request of this route."""
        self.ended(model, failed=False)
        if self.traffic.canary is not None and self._is_seen(model.version, model.token):
            self._judged(self.canary.took(canary=model.version == self.traffic.canary, seconds=seconds, now=time.monotonic()))
        if self.traffic.shadow in self.models.versions(self.name):
            self.shadow.offer(self.models.get(self.name, self.traffic.shadow), model, tensors, outputs)

    def ended(self, model: Model, *, failed: bool) -> None:
        """A request to `model` was answered, or failed or was refused."""
        if self.traffic.canary is not None and self._is_seen(model.version, model.token):
            self._judged(self.canary.ended(canary=model.version == self.traffic.canary, failed=failed))

    def labelled(self, answered: Answered, correct: bool) -> None:
        """Somebody said whether an answer was right."""
        if not self._is_seen(answered.version, answered.token):
            return
        if self.traffic.canary is not None:
            self._judged(self.canary.labelled(canary=answered.version == self.traffic.canary, correct=correct))
        if self.experiment is not None and answered.version in self.experiment.versions:
            self.experiment.labelled(answered.version, correct)

    def document(self) -> dict[str, Any]:
        """For people and programs."""
        self._renew()
        kinds: dict[str, Any] = {"model": self.name, "weights": self.weights}
        if self.experiment is not None:
            kinds["experiment"] = self.experiment.document()
        if self.traffic.canary is not None:
            kinds["canary"] = {"version": self.traffic.canary, **self.canary.document()}
        if self.traffic.shadow is not None:
            kinds["shadow"] = {"version": self.traffic.shadow, **self.shadow.document()}
        return kinds

    def _renew(self) -> None:
        """Begin anew where a version was loaded anew: what was seen before is about another program."""
        live = self.models.versions(self.name)
        takes_part = self.traffic.weights(live, canary=True)
        tokens = {model.version: model.token for model in self.models.all_of(self.name) if model.version in takes_part}
        if tokens == self._seen:
            return
        canary = self.traffic.canary or ""
        same_canary = canary in tokens and tokens[canary] is self._seen.get(canary)
        self.canary = Canary(rolled_back=self.canary.rolled_back if same_canary else "")  # others that change do not bring it back
        split = [version for version in live if version in self.traffic.split]
        self.experiment = Experiment(versions=split) if len(split) > 1 else None
        self._seen = tokens

    def _is_seen(self, version: str, token: object) -> bool:
        """Whether this loading of it is what the numbers are about: a late answer may be of one that was replaced."""
        return self._seen.get(version) is token

    def _judged(self, reason: str) -> None:
        if reason:
            _log.warning("%s version %s was rolled back: %s", self.name, self.traffic.canary, reason)
            if self.metrics is not None:
                self.metrics.rolled_back(self.name, self.traffic.canary or "", reason.partition(":")[0])


class Router:
    """Chooses among the versions of `models`.

    traffic: by model, where it is not all to the newest; recall: loads one that was evicted. Raises UnknownModel, JobError.
    """

    def __init__(
        self, models: Models, traffic: Mapping[str, Traffic] | None = None, *, metrics: Metrics | None = None, recall: Recall | None = None
    ) -> None:
        self.models, self.answers = models, Answers()
        self._metrics, self._recall = metrics, recall
        self.routes = {name: Route(name=name, models=models, traffic=wanted, metrics=metrics) for name, wanted in (traffic or {}).items()}

    def assign(self, name: str, version: str | None, *, key: str | None = None) -> contextlib.AbstractAsyncContextManager[Assignment]:
        """The version that answers, as long as this lasts. key: requests with the same one get the same version. Raises UnknownModel."""
        return _Assigning(self, name, version, key)

    async def choose(self, name: str, version: str | None, key: str | None) -> Assignment:
        """The version that answers now."""
        route = None if version else self.routes.get(name)
        model = self.models.get(name, version if route is None else route.choose(key))
        while model.evicted and self._recall is not None:  # again where somebody else made it go while this waited
            model = await self._recall(model)
        exchange = CURRENT.get() or Exchange()
        exchange.model, exchange.version = model.name, model.version
        return Assignment(model=model, exchange=exchange, router=self, route=route)

    def remember(self, chosen: Assignment, outputs: Outputs) -> None:
        """Keep what a classifier answered, so that it can be judged."""
        manifest = chosen.model.bundle.manifest
        if not manifest.classifier or len(outputs[manifest.output]) > MOST_SAMPLES:
            return
        answered = Answered(
            model=chosen.model.name,
            version=chosen.model.version,
            token=chosen.model.token,
            routed=chosen.route is not None,
            names=manifest.labels,
            classes=outputs[manifest.output].argmax(axis=1).tolist(),
        )
        self.answers.remember(chosen.exchange.id, answered)

    def judge(self, request_id: str, label: Any) -> tuple[Answered, list[bool]] | None:
        """Whether the answer to a request was right, by sample; None where it is not known (any more). Raises DataError."""
        answered = self.answers.get(request_id)
        if answered is None:
            return None
        right = answered.judge(label)
        self.answers.forget(request_id)
        route = self.routes.get(answered.model)
        for correct in right:
            if self._metrics is not None:
                self._metrics.labelled(answered.model, answered.version, correct)
            if route is not None and answered.routed:
                route.labelled(answered, correct)
        return answered, right


@dataclass
class _Assigning:
    """`Router.assign`: by hand, since a generator takes longer than what it does."""

    router: Router
    name: str
    version: str | None
    key: str | None

    async def __aenter__(self) -> Assignment:
        chosen = await self.router.choose(self.name, self.version, self.key)
        self.model = chosen.model
        self.model.hold()
        return chosen

    async def __aexit__(self, *_: object) -> None:
        self.model.release()
