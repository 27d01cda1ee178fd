"""The nodes of a Ray cluster as a crew: candidates are built on any of them, and one of them compiles, runs and times.

Ray places, queues and retries; what is done at a node are the same errands in the same child processes
as without it. The node that times is held by an actor with all its CPUs and one unit of the target's label: nothing is built there, and
another search waits for its turn. A step is finished when its files are in the search's own store, so that
whatever dies, no finished step is lost. What Ray's processes on a node died of is no fault of the step: it is tried on others,
`ATTEMPTS` times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from ..core.archive import tar
from ..core.cluster import ATTEMPTS, Node, connected, reason
from ..core.errors import NotPossibleHere, WorkerError
from ..core.machine import Machine, this_machine
from ..core.need import need
from ..core.store import Store
from ..core.surroundings import Surroundings, difference, surroundings
from ..measure.errands import Station
from .crew import Crew, Errand, P, R
from .observer import Observer
from .parcel import Parcel, Reply, carry_out, pack

_PATIENCE_SECONDS = 30.0  # after which a person hears what is waited for


@dataclass(frozen=True, kw_only=True)
class _Request:
    """A parcel for a node. files: what its needs hold, as references that a node resolves only where it lacks them."""

    errand: bytes
    files: Mapping[str, Any]
    surroundings: Surroundings


class RayCrew(Crew):
    """address: `ray` (one that is started and stopped here) or `ray://host:port`; label: what a node that times must carry, None: any.

    Raises MissingExtra without the extra `ray`, NotPossibleHere where no node may time, or one has other versions than this process.
    """

    def __init__(self, address: str, label: str | None, store: Store, observer: Observer) -> None:
        self._store, self._label, self._observer = store, label, observer
        self._sent: dict[str, Any] = {}  # references to the files of steps
        self._ahead: dict[str, Any] = {}  # references to replies
        self._shunned: list[str] = []  # nodes on which an actor was lost
        self._actor: Any = None
        self._node: Node | None = None
        self._surroundings = surroundings()
        self._exit = contextlib.ExitStack()
        try:
            resources, env = {label: 1.0} if label else None, {"HASTEN_STORE": str(store.root.resolve())}
            self._cluster = self._exit.enter_context(connected(address, resources=resources, env=env))
            self._ray, self._failures = self._cluster.ray, self._cluster.failures
            self._exit.callback(self._go_home)
            self._cluster.check_nodes(self._surroundings)
            self.machine = self._hire()
        except BaseException:
            self.close()
            raise

    @property
    def builds_ahead(self) -> bool:
        """Whether there is a node that no search times on: what is built on such a one would disturb it."""
        timing = {self._node.id} if self._node else set()
        return any(n.cpus >= 1 and n.id not in timing and self._label not in n.labels for n in self._cluster.nodes())

    def build(self, key: str, errand: Errand[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if key not in self._ahead and not self.builds_ahead:
            return self.on_target(errand, *args, **kwargs)  # nothing is timed meanwhile
        parcel = pack(self._store, errand, args, kwargs)
        reference = self._ahead.pop(key, None) or self._submit(parcel)
        try:
            reply: Reply = self._ray.get(reference)
        except self._failures as error:
            raise _lost(f"building it failed {ATTEMPTS} times", error) from None
        except BaseException:
            self._ray.cancel(reference, force=True)
            raise
        return reply.open(parcel.writes)  # type: ignore[no-any-return]

    def ahead(self, key: str, errand: Errand[P, R], *args: P.args, **kwargs: P.kwargs) -> None:
        if key not in self._ahead:
            self._ahead[key] = self._submit(pack(self._store, errand, args, kwargs))

    def arrived(self) -> list[str]:
        waiting = {reference: key for key, reference in self._ahead.items()}
        ready = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)[0] if waiting else []
        return [waiting[reference] for reference in ready]

    def on_target(self, errand: Errand[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        parcel = pack(self._store, errand, args, kwargs)
        request, failure = self._request(parcel), None
        for _ in range(ATTEMPTS):
            try:
                if self._actor is None:
                    self._hire_again()
                reply: Reply = self._ray.get(self._actor.work.remote(request))
                return reply.open(parcel.writes)  # type: ignore[no-any-return]
            except self._failures as error:
                failure = error
                self._observer.warn(f"node {self._node.text if self._node else '?'} was lost while it worked: tried again")
                self._dismiss()
            except KeyboardInterrupt:
                self._dismiss()  # or it would go on with what nobody waits for
                raise
        assert failure is not None
        raise _lost(f"the node that times was lost {ATTEMPTS} times", failure)

    def release(self, name: str) -> None:
        if self._actor is not None:
            self._actor.release.remote(name)

    def close(self) -> None:
        self._exit.close()

    def _submit(self, parcel: Parcel) -> Any:
        options = {"num_cpus": 1, "max_retries": ATTEMPTS - 1, "scheduling_strategy": "SPREAD"}
        return self._ray.remote(_build).options(**options).remote(self._request(parcel))

    def _request(self, parcel: Parcel) -> _Request:
        for key in parcel.needs:
            if key not in self._sent:
                self._sent[key] = None if self._cluster.here else self._ray.put(tar(self._store.folder(key)))
        files = {key: self._sent[key] for key in parcel.needs}
        return _Request(errand=parcel.errand, files=files, surroundings=self._surroundings)

    def _hire(self) -> Machine:
        """Take a node that may time, for as long as this crew exists. Raises NotPossibleHere, RayError."""
        self._node = node = self._choose()
        resources = {self._label: 1} if self._label else {}
        options = {"num_cpus": node.cpus, "resources": resources, "max_restarts": 0, "scheduling_strategy": self._cluster.only_on(node)}
        self._actor = self._ray.remote(_Target).options(**options).remote()
        answer = self._actor.machine.remote()
        if not self._ray.wait([answer], timeout=_PATIENCE_SECONDS)[0]:
            self._observer.warn(f"waiting for node {node.text}, which others use")
        machine, niceness = self._ray.get(answer)
        if niceness > 0:
            self._observer.warn(f"node {node.text} runs programs at low priority: start Ray there with RAY_worker_niceness=0")
        self._observer.learnt(f"Programs are timed on node {node.text}: {machine.text}.")
        return machine  # type: ignore[no-any-return]

    def _hire_again(self) -> None:
        """Take another node of the same kind. Raises WorkerError where there is none, RayError."""
        try:
            machine = self._hire()
        except NotPossibleHere as error:  # no fault of the step that is under way
            raise WorkerError("workers", f"have lost the node that timed ({error})", cause="killed") from None
        if machine.id != self.machine.id:
            self._dismiss()
            raise WorkerError(
                "workers", f"have lost the node that timed, and the next one is another machine ({machine.text}, not {self.machine.text})",
                cause="killed", hint="The same command goes on, and times everything again there",
            )  # fmt: skip

    def _choose(self) -> Node:
        fit = [n for n in self._cluster.nodes() if n.cpus >= 1 and (self._label is None or self._label in n.labels)]
        if not fit:
            what = f"a node with the resource {self._label!r}" if self._label else "a node with a CPU"
            way = f"ray start --address=... --resources='{{\"{self._label}\": 1}}'" if self._label else ""
            raise NotPossibleHere("target.label", f"needs {what} in the cluster", hint=way and f"Start it with `{way}`")
        return min(fit, key=lambda n: (self._shunned.count(n.id), n.address, n.id))

    def _dismiss(self) -> None:
        if self._actor is not None and self._node is not None:
            self._shunned.append(self._node.id)
            with contextlib.suppress(*self._failures):
                self._ray.kill(self._actor)
        self._actor = None

    def _go_home(self) -> None:
        """Leave the cluster as it was: the node that times is free, and nobody builds for us."""
        with contextlib.suppress(*self._failures):  # a lost cluster needs no farewell
            if self._actor is not None:
                self._ray.kill(self._actor)
            for reference in self._ahead.values():
                self._ray.cancel(reference, force=True)


class _Target:
    """The actor on the node that times. Ray runs one call of it at a time."""

    def __init__(self) -> None:
        self._station = _station()

    def machine(self) -> tuple[Machine, int]:
        """What it is, and by how much Ray lowers the priority of what runs here."""
        me = psutil.Process()
        parent = me.parent()
        return this_machine(), me.nice() - (parent.nice() if parent else 0)

    def work(self, request: _Request) -> Reply:
        return _answer(request, self._station)

    def release(self, name: str) -> None:
        self._station.release(name)


def _build(request: _Request) -> Reply:
    return _answer(request, _station())


def _answer(request: _Request, station: Station) -> Reply:
    """What comes of a request, at a node."""
    if broken := difference(request.surroundings):  # a node that came after the search had begun
        return Reply(ok=False, result=WorkerError(f"node {station.node}", broken, cause="killed"), files=b"")

    def fetch(key: str) -> bytes:
        files: bytes = need("ray").get(request.files[key])
        return files

    return carry_out(request.errand, station, fetch, tuple(request.files))


def _station() -> Station:
    return Station(store=Store.default(), node=need("ray").get_runtime_context().get_node_id())


def _lost(what: str, error: BaseException) -> WorkerError:
    return WorkerError("workers", f"{what}: {reason(error)}", cause="killed", hint="The same command goes on from here")
