"""A Ray cluster: one that is started here for a while, or one that others keep. Its nodes, and whether they are as this process is.

Who hands out work (a search, a batch) decides what is done where; Ray places and queues.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import NotPossibleHere
from .machine import usable_cores
from .need import need
from .surroundings import Surroundings, difference

ATTEMPTS = 3
"""How often something is tried whose process or node is lost: that is no fault of what was done there."""

_PREFIX = "hasten-ray-"
_OBJECT_STORE_BYTES = 256 * 2**20  # beyond, Ray uses the disk
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # or it reports to its vendor
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # or it packs the current folder
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns
    "RAY_worker_niceness": "0",  # or programs are timed at the lowest priority
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that is alive. cpus: as Ray counts them; labels: the resources that it carries."""

    id: str
    address: str
    cpus: float
    labels: frozenset[str]

    @property
    def text(self) -> str:
        return f"{self.address} ({self.id[:8]})"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """ray: the module, connected; here: whether it was started here, so that it is one node with this very disk."""

    ray: Any
    here: bool

    @property
    def failures(self) -> tuple[type[BaseException], ...]:
        """What Ray raises where a process, a node or the cluster was lost."""
        return (self.ray.exceptions.RayError, ConnectionError)

    def nodes(self) -> list[Node]:
        """Those that are alive."""
        return [
            Node(id=n["NodeID"], address=n["NodeManagerAddress"], cpus=n["Resources"].get("CPU", 0.0), labels=frozenset(n["Resources"]))
            for n in self.ray.nodes()
            if n["Alive"]
        ]

    def only_on(self, node: Node) -> Any:
        """Ray's strategy that places something there and nowhere else."""
        return need("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy(node.id, soft=False)

    def check_nodes(self, wanted: Surroundings) -> None:
        """That every node has what this process has. Raises NotPossibleHere, which names the node and the difference."""
        task = self.ray.remote(difference)
        asked = [
            (node, task.options(num_cpus=0, scheduling_strategy=self.only_on(node)).remote(wanted))
            for node in self.nodes()
        ]  # fmt: skip
        for node, answer in asked:
            try:
                broken = self.ray.get(answer)
            except self.failures as error:
                broken = f"must be able to run hasten ({reason(error)})"
            if broken:
                raise NotPossibleHere(f"node {node.text}", broken, hint="Install the same versions on every node")


@contextlib.contextmanager
def connected(address: str, *, resources: Mapping[str, float] | None = None, env: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """The cluster at `address`: `ray` (one that is started and stopped here) or `ray://host:port`. Afterwards all is as it was.

    resources, env: of the one that is started here. Raises MissingExtra without the extra `ray`, NotPossibleHere.
    """
    with _environment(_QUIET):
        ray = need("ray", why="for --workers")
    if ray.is_initialized():  # the caller's own: it stays
        yield Cluster(ray=ray, here=False)
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address == "ray":
            with _started_here(ray, resources, env or {}):
                yield Cluster(ray=ray, here=True)
        else:
            _connect(ray, address)
            yield Cluster(ray=ray, here=False)
    finally:
        ray.shutdown()
        with contextlib.suppress(ValueError):  # Ray took the signal only if this is the main thread
            signal.signal(signal.SIGTERM, before)


def reason(error: BaseException) -> str:
    """What Ray says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextlib.contextmanager
def own_folder(prefix: str) -> Iterator[Path]:
    """A folder of this process among the temporary files. What processes left that were killed is removed first."""
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if not _is_alive(int(left.name.removeprefix(prefix).split("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _connect(ray: Any, address: str) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        with _environment(_QUIET), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says the same again as an error
            try:
                ray.init(address, log_to_driver=False, logging_level="ERROR")
                return
            except (ConnectionError, RuntimeError, ValueError) as error:
                if isinstance(error, ConnectionAbortedError) and attempt < ATTEMPTS:  # a cluster that has just started may not be ready
                    ray.shutdown()
                    continue
                raise NotPossibleHere(
                    "workers", f"must be a Ray cluster that can be reached ({reason(error)})", got=address,
                    hint="The port is that of its client server, 10001 unless it was told otherwise",
                ) from None  # fmt: skip


@contextlib.contextmanager
def _started_here(ray: Any, resources: Mapping[str, float] | None, env: Mapping[str, str]) -> Iterator[None]:
    """A Ray of one node, on this machine. Its processes end with this one, and its files are removed.

    Where this process is killed with SIGKILL, two idle agents of Ray end a minute later, and the next one removes the files.
    """
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    with own_folder(_PREFIX) as folder:
        try:
            with _environment({**_QUIET, "PYTHONPATH": paths, **env}):
                ray.init(
                    address="local", num_cpus=usable_cores(), resources=resources, include_dashboard=False, log_to_driver=False,
                    logging_level="ERROR", object_store_memory=_OBJECT_STORE_BYTES, _temp_dir=str(folder),
                )  # fmt: skip
            yield
        finally:
            ray.shutdown()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables, which Ray and what it starts read, for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
