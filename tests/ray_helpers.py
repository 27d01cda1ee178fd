"""A Ray cluster of several nodes on this machine, and errands that its nodes do. The nodes import this module too."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from hasten.measure.errands import Station

LABEL = "edge-box"
_TESTS = Path(__file__).resolve().parent


@contextmanager
def cluster(**head: Any) -> Iterator[Any]:
    """A head on which nothing runs. Nodes are added with `add`."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="hasten-test-", ignore_cleanup_errors=True) as short:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", short)  # not in pytest's folders: names of sockets must be short
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **head})
        try:
            yield made
        finally:
            made.shutdown()


def add(made: Any, store: Path, *, env: Mapping[str, str] | None = None, paths: tuple[str, ...] = (), **node: Any) -> Any:
    """One more node with a store of its own. paths: where it looks for packages first."""
    path = os.pathsep.join([*paths, str(_TESTS.parent / "src"), str(_TESTS)])
    return made.add_node(env_vars={"HASTEN_STORE": str(store), "PYTHONPATH": path, **(env or {})}, **node)


def where(station: Station) -> str:
    """The node."""
    return station.node


def write(station: Station, folder: Path, log: str) -> str:
    """A file with the node in it, and a line in `log`."""
    with open(log, "a") as lines:
        lines.write(f"{station.node}\n")
    (folder / "node.txt").write_text(station.node)
    return station.node


def killed_times(station: Station, folder: Path, log: str, times: int) -> str:
    """As `write`, but Ray's process is killed the first times that it comes to it."""
    tried = len(Path(log).read_text().split()) if Path(log).exists() else 0
    write(station, folder, log)
    if tried < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return station.node


def interrupted(station: Station, pid: int) -> None:
    """Interrupts the search and never ends."""
    os.kill(pid, signal.SIGINT)
    signal.pause()


def node_killed_once(station: Station, folder: Path, log: str) -> str:
    """As `write`, but all of Ray on this node is killed the first time."""
    first = not Path(log).exists()
    write(station, folder, log)
    if first:
        me = psutil.Process()
        me.parent().kill()
        me.kill()
    return station.node
