"""The nodes of a Ray cluster as those who answer slices. Nothing is written there.

A node has as many actors as have cores for the program. A slice is a call of one of them, and its answers come back to this process,
which alone writes them. Each actor has a few slices at a time, so that memory stays bounded. What an actor that is lost had not answered
is given to others; what it was at counts as tried, `ATTEMPTS` times.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.layout import MANIFEST
from ..bundle.read import Bundle
from ..core.archive import tar, untar
from ..core.cluster import ATTEMPTS, Node, connected, own_folder, reason
from ..core.errors import HastenError, NotPossibleHere, WorkerError
from ..core.surroundings import Surroundings, difference, surroundings
from .sources import Slice
from .worker import Answered, Answerer, Worker

_AT_ONCE = 2  # slices an actor has: one is on its way while one is answered
_FAREWELL_SECONDS = 10.0
_PREFIX = "hasten-batch-"
_GOES_ON = "The same command goes on from here"


@dataclass(eq=False, kw_only=True)
class _Task:
    """A slice that somebody must answer. piece: a reference to it; name: for people; lost: how often who answered it was lost."""

    piece: Any
    name: str
    lost: int = 0


@dataclass(eq=False, kw_only=True)
class _Hand:
    """An actor. opening: a reference, None once it can answer; replies: references, of the slices that it has, oldest first."""

    node: Node
    actor: Any
    opening: Any
    replies: deque[tuple[_Task, Any]] = field(default_factory=deque)

    @property
    def awaited(self) -> Any:
        """What it says next: a reference, None where it has nothing to do. An actor answers in order."""
        return self.opening or (self.replies[0][1] if self.replies else None)


class Nodes(Answerer):
    """address: `ray` (one that is started and stopped here) or `ray://host:port`.

    Raises BundleError, MissingExtra without the extra `ray`, NotPossibleHere where no node may answer, or one has other versions.
    """

    def __init__(self, bundle: Path, address: str) -> None:
        known = Bundle.open(bundle)
        self._threads = known.manifest.to_target().threads
        self._wanted = surroundings("pillow", *known.runtime.packages)
        self._hands: list[_Hand] = []
        self._returned: deque[_Task] = deque()
        self._exhausted = False
        self._losses: Counter[str] = Counter()  # of actors of each node, since it last answered something
        self._answered: set[str] = set()
        self._exit = contextlib.ExitStack()
        try:
            self._cluster = self._exit.enter_context(connected(address))
            self._ray = self._cluster.ray
            self._exit.callback(self._go_home)
            with self._translated():
                self._cluster.check_nodes(self._wanted)
                self._folder = str(bundle.resolve()) if self._cluster.here else None
                self._files = None if self._cluster.here else self._ray.put(tar(bundle, [MANIFEST, *known.manifest.files]))
                for node in self._cluster.nodes():
                    self._hands += [self._hire(node) for _ in range(self._places(node))]
            if not self._hands:
                raise NotPossibleHere("workers", "needs a node with a CPU in the cluster", got=address)
        except BaseException:
            self.close()
            raise

    @property
    def num_nodes(self) -> int:
        return len(self._answered)

    def answers(self, pieces: Iterator[Slice]) -> Iterator[Answered]:
        with self._translated():
            while True:
                self._hand_out(pieces)
                if self._exhausted and not self._returned and not any(hand.replies for hand in self._hands):
                    return
                waiting = {hand.awaited: hand for hand in self._hands if hand.awaited is not None}
                (ready, *_), _ = self._ray.wait(list(waiting), num_returns=1)
                if (answered := self._take(waiting[ready])) is not None:
                    yield answered

    def close(self) -> None:
        self._exit.close()

    def _hand_out(self, pieces: Iterator[Slice]) -> None:
        """Slices to those who can answer and have too few."""
        for _ in range(_AT_ONCE):  # each gets one before somebody gets two
            for hand in self._hands:
                if hand.opening is None and len(hand.replies) < _AT_ONCE and (task := self._next(pieces)):
                    hand.replies.append((task, hand.actor.answer.remote(task.piece)))

    def _next(self, pieces: Iterator[Slice]) -> _Task | None:
        if self._returned:
            return self._returned.popleft()
        piece = next(pieces, None)
        if piece is None:
            self._exhausted = True
            return None
        return _Task(piece=self._ray.put(_portable(piece)), name=f"{piece.names[0]}, row {piece.rows[0]}")

    def _take(self, hand: _Hand) -> Answered | None:
        """What an actor says, unless it only says that it can answer now, or is lost. Raises HastenError."""
        try:
            said: HastenError | Answered | None = self._ray.get(hand.awaited)
        except self._ray.exceptions.RayTaskError as error:
            raise WorkerError("workers", f"have failed on node {hand.node.text}: {reason(error)}", cause="error", hint=_GOES_ON) from None
        except self._ray.exceptions.RayError as error:
            self._replace(hand, error)
            return None
        if isinstance(said, HastenError):
            raise said
        if said is None:
            hand.opening = None
            return None
        hand.replies.popleft()
        self._losses[hand.node.id] = 0
        self._answered.add(hand.node.id)
        return said

    def _replace(self, lost: _Hand, error: BaseException) -> None:
        """Somebody else in the place of who is lost, and what he had is to be given out again. Raises WorkerError."""
        self._hands.remove(lost)
        with contextlib.suppress(*self._cluster.failures):
            self._ray.kill(lost.actor)  # it may only be out of reach
        tasks = [task for task, _ in lost.replies]
        self._returned.extendleft(reversed(tasks))
        if tasks:
            tasks[0].lost += 1  # the others had not been begun
            if tasks[0].lost == ATTEMPTS:
                raise _lost(f"were lost {ATTEMPTS} times while they answered {tasks[0].name}", error)
        self._losses[lost.node.id] += 1
        alive = {node.id for node in self._cluster.nodes()}
        if lost.node.id in alive and self._losses[lost.node.id] < ATTEMPTS:
            self._hands.append(self._hire(lost.node))
        if not self._hands:
            raise _lost("have all been lost", error)

    def _places(self, node: Node) -> int:
        """How many programs a node has cores for: one at least, where it has any."""
        return max(1, int(node.cpus) // self._threads) if node.cpus >= 1 else 0

    def _hire(self, node: Node) -> _Hand:
        cores = int(node.cpus) // self._places(node)
        options = {"num_cpus": cores, "max_restarts": 0, "scheduling_strategy": self._cluster.only_on(node)}
        actor = self._ray.remote(_Answerer).options(**options).remote()
        return _Hand(node=node, actor=actor, opening=actor.open.remote(self._folder, self._files, cores, self._wanted))

    def _go_home(self) -> None:
        """Leave the cluster as it was."""
        with contextlib.suppress(*self._cluster.failures):  # a lost cluster needs no farewell
            idle = [hand.actor.close.remote() for hand in self._hands if hand.awaited is None]
            if idle:
                self._ray.wait(idle, num_returns=len(idle), timeout=_FAREWELL_SECONDS)
            for hand in self._hands:
                self._ray.kill(hand.actor)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._cluster.failures as error:
            raise _lost("have lost their cluster", error) from None


class _Answerer:
    """The actor. Ray runs one call of it at a time."""

    def __init__(self) -> None:
        self._exit = contextlib.ExitStack()

    def open(self, folder: str | None, files: bytes | None, cores: int, wanted: Surroundings) -> HastenError | None:
        """Get the bundle, from `folder` or as `files`, and load it. The error, where that cannot be."""
        try:
            if broken := difference(wanted):  # which also makes the plug-ins known
                return NotPossibleHere("node", broken, hint="Install the same versions on every node")
            place = Path(folder) if folder is not None else self._exit.enter_context(own_folder(_PREFIX))
            if files is not None:
                untar(files, place)
            self._worker = self._exit.enter_context(Worker(place, cores))
        except HastenError as error:
            return error
        return None

    def answer(self, piece: Slice) -> Answered | HastenError:
        try:
            return self._worker.answer(piece)
        except HastenError as error:
            return error

    def close(self) -> None:
        self._exit.close()


def _portable(piece: Slice) -> Slice:
    """The slice without maps of files, which others do not have."""
    arrays = {name: np.asarray(values) if isinstance(values, np.memmap) else values for name, values in piece.inputs.items()}
    return replace(piece, inputs=arrays)


def _lost(what: str, error: BaseException) -> WorkerError:
    return WorkerError("workers", f"{what}: {reason(error)}", cause="killed", hint=_GOES_ON)
