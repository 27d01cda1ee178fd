"""The models that one process serves, by name and version. No HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..bundle.read import Bundle
from ..core.errors import DataError, Overloaded, UnknownModel
from . import warmup
from .batcher import Batcher, Outputs
from .drift import Drift
from .meter import Meter, Witness
from .metrics import Metrics
from .options import MAX_QUEUE
from .replicas import Replicas
from .schedule import Priority, Schedule
from .staffing import Staffing

_ALONE = Staffing()


class Wish(NamedTuple):
    """When a request came, and what it wants of the queue. arrived: time.monotonic(); timeout: seconds that its sender waits."""

    arrived: float
    timeout: float = math.inf
    priority: Priority = Priority.INTERACTIVE


class Model:
    """One version of one model, loaded once: a reload makes another one. `load` it before it is asked, `close` it at the end.

    objective: seconds from arrival to answer, or infinity; max_queue: requests of one class that may wait; staffing: how many processes
    run its program.
    """

    away: str = ""
    """Why it does not answer, where that is meant to be so."""
    evicted: bool = False
    """Whether its program was let go to make room, and is loaded when somebody asks."""
    token: object
    """Stands for this loading of it, and holds nothing. One that was evicted and came back unchanged keeps it."""

    def __init__(
        self,
        name: str,
        version: str,
        bundle: Bundle,
        *,
        objective: float = math.inf,
        max_queue: int = MAX_QUEUE,
        staffing: Staffing = _ALONE,
        metrics: Metrics | None = None,
    ) -> None:
        self.name, self.version, self.bundle = name, version, bundle
        self.objective, self._max_queue, self._staffing = objective, max_queue, staffing
        self._metrics, self.token, self.asked = metrics, object(), 0.0
        self._batcher: Batcher | None = None
        self.replicas: Replicas | None = None  # where the program runs, if not here
        self._opened = False
        self.drift: Drift | None = None
        self.meter = Meter()
        self._holders, self._released = 0, asyncio.Event()
        self._decoding: list[float] = []  # when those came who are being decoded

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.loaded and self.programs > 0 and not self.away and not self.evicted

    @property
    def loaded(self) -> bool:
        """Whether its program is loaded, even where all its replicas have just ended."""
        return self._batcher is not None

    @property
    def programs(self) -> int:
        """How many of its programs answer calls now."""
        return int(self.loaded) if self.replicas is None else self.replicas.staff.ready

    @property
    def most_programs(self) -> int:
        """How many there are, or will be at most when it is loaded."""
        if not self._opened:
            return self._staffing.most(self.bundle)
        return 1 if self.replicas is None else self.replicas.count

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps the program for a request: `close` waits until nobody holds it."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def hold(self) -> None:
        """`held`, by hand: it ends with `release`."""
        self._holders += 1
        self.asked = time.monotonic()

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._released.set()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._batcher) if self._batcher is not None else 0

    @property
    def idle(self) -> bool:
        """Whether nobody is being decoded, waits or is answered."""
        return not self._decoding and (self._batcher is None or self._batcher.idle)

    @property
    def platform(self) -> str:
        return f"hasten_{self.bundle.manifest.runtime.name}"

    def open(self) -> None:
        """Load the program, unless it is. Raises BundleError, NotPossibleHere, MissingExtra."""
        if not self._opened:
            self.replicas = self._staffing.open(self.bundle, objective=self.objective)
            self._opened = True

    def load(self) -> None:
        """Load the program, warm it up, begin to answer. Raises BundleError, NotPossibleHere, MissingExtra."""
        self.open()
        workers = self.most_programs
        curve = warmup.warm_up(self.bundle, objective=self.objective, at_once=workers)
        golden = self.bundle.golden.tensors
        shares = warmup.shares(self.bundle)
        elements = warmup.elements(golden, len(next(iter(golden.values()))) if shares else 1)
        schedule = Schedule(curve, objective=self.objective, max_queue=self._max_queue, elements=elements, workers=workers)
        self.drift = Drift(self.bundle, shares=shares)
        if self._metrics is not None:  # not before: until here, the numbers of this version are those of the one that it replaces
            self._metrics.drift.watch(self.name, self.version, lambda: self.drift)
            self.meter = self._metrics.meter(
                self.name, self.version, objective=self.objective, waiting=lambda: self.waiting, programs=lambda: self.programs
            )
        run, replicas = self.drift.watching(self.bundle.run), self.replicas
        # Where `run` cuts a call into several, each of them takes a replica when it comes.
        room = replicas.room if replicas is not None and shares and self.bundle.signature.batch is None else None
        batcher = Batcher(run, schedule, shares=shares, workers=workers, room=room, meter=self.meter)
        batcher.start()
        self._batcher = batcher
        if replicas is not None:
            replicas.watch(lambda staff: batcher.staff(staff.ready, back_seconds=staff.back_seconds, away=staff.away), self.meter.restarted)

    async def infer(self, tensors: Mapping[str, np.ndarray], wish: Wish, *, witness: Witness | None = None) -> Outputs:
        """The outputs for tensors that `bundle.prepare` or `prepare_tensors` checked. witness: told of the calls.

        Raises Overloaded, QueueFull, HastenError.
        """
        if self._batcher is None:
            raise Overloaded("comes before the model is ready", retry_after_seconds=1.0)
        return await self._batcher.submit(tensors, deadline=self.deadline(wish), priority=wish.priority, witness=witness)

    def deadline(self, wish: Wish) -> float:
        """When the answer is due. Bulk requests have no objective but their own."""
        objective = self.objective if wish.priority is Priority.INTERACTIVE else math.inf
        return wish.arrived + min(objective, wish.timeout)

    @contextlib.contextmanager
    def decoding(self, wish: Wish) -> Iterator[None]:
        """Counts a request that is decoded in a thread, as long as this lasts: it will be in line before those who came later."""
        self._decoding.append(wish.arrived)
        try:
            yield
        finally:
            self._decoding.remove(wish.arrived)

    def too_late(self, wish: Wish, at: float) -> Overloaded | None:
        """Why a request that is decoded at `at` cannot be answered by its deadline; None: it may be in time.

        Where nobody else is here, whoever is not too late already is tried.
        """
        deadline = self.deadline(wish)
        what, late = "decoded", at - deadline
        if late <= 0 and self._batcher is not None and not self.idle and deadline < math.inf:
            ahead = sum(arrived < wish.arrived for arrived in tuple(self._decoding)) if self._decoding else 0
            what, late = "answered", self._batcher.lateness(deadline=deadline, priority=wish.priority, ready=at, ahead=ahead)
        return Overloaded(f"cannot be {what} by its deadline", retry_after_seconds=late) if late > 0 else None

    def check_time(self, wish: Wish, at: float) -> None:
        """Raises Overloaded where it is `too_late`: decoding it is work for nothing."""
        if (error := self.too_late(wish, at)) is not None:
            self.meter.refused(error)
            raise error

    async def close(self) -> None:
        """Answer who was taken, then let the program go."""
        while self._holders:
            self._released.clear()
            await self._released.wait()
        if self._batcher is not None:
            await self._batcher.drain()
            self._batcher = None
        if self.drift is not None:
            await asyncio.to_thread(self.drift.close)
            self.drift = None
        await asyncio.to_thread(self.bundle.close)
        self.replicas, self._opened = None, False


class Models:
    """Models by name, each with at least one version; the newest is the one with the highest number."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models: dict[str, dict[str, Model]] = {}
        for model in models:
            self.switch(model)

    def switch(self, model: Model) -> Model | None:
        """From now on `model` is its version of its name. What was that before."""
        versions = self._models.setdefault(model.name, {})
        before = versions.get(model.version)
        versions[model.version] = model
        self._models[model.name] = dict(sorted(versions.items(), key=lambda item: int(item[0])))
        return before

    @classmethod
    def of(cls, bundles: Sequence[tuple[str, Bundle]], make: Callable[[str, str, Bundle], Model]) -> Models:
        """Bundles with their names. Several of one name are its versions 1, 2, ... in this order."""
        counts: dict[str, int] = {}
        made = []
        for name, bundle in bundles:
            counts[name] = counts.get(name, 0) + 1
            made.append(make(name, str(counts[name]), bundle))
        return cls(made)

    def __iter__(self) -> Iterator[Model]:
        return (model for versions in self._models.values() for model in versions.values())

    @property
    def names(self) -> list[str]:
        return list(self._models)

    def all_of(self, name: str) -> list[Model]:
        """Every version of `name`, the oldest first, those that were unloaded too. Raises UnknownModel."""
        if name not in self._models:
            raise UnknownModel("model", f"must be one of {', '.join(self._models)}", got=name)
        return list(self._models[name].values())

    def versions(self, name: str) -> list[str]:
        """The versions of `name` that are meant to answer, the oldest first. Raises UnknownModel."""
        return [model.version for model in self.all_of(name) if not model.away]

    def get(self, name: str, version: str | None = None) -> Model:
        """That version of `name`, or its newest. Raises UnknownModel, also for what was unloaded."""
        models = self._models.get(name, {})
        model = models.get(version) if version else next((one for one in reversed(models.values()) if not one.away), None)
        if model is not None and not model.away:
            return model
        if not (known := self.versions(name)):
            raise UnknownModel("model", "must be loaded", got=name)
        raise UnknownModel(f"version of {name}", f"must be one of {', '.join(known)}", got=version)

    def only(self, name: str | None) -> Model:
        """The newest version of `name`, which may be left out where there is one model. Raises UnknownModel, DataError."""
        if not name and len(self._models) > 1:
            raise DataError("model", f"must be named: one of {', '.join(self._models)}")
        return self.get(name or next(iter(self._models)))

    @property
    def ready(self) -> bool:
        """Whether all of them answer that are meant to."""
        return all(model.ready or model.away or model.evicted for model in self)

    def load(self) -> None:
        """Load those that are not ready, one after the other: each is timed while the others are idle. Raises what `Model.load` raises."""
        for model in self:
            if not (model.loaded or model.away or model.evicted):
                model.load()

    async def close(self) -> None:
        await asyncio.gather(*(model.close() for model in self))
