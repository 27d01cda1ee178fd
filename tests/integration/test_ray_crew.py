"""A search on a cluster: built anywhere, timed on the labelled node alone, and whatever dies, the step is done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

import ray_helpers

from hasten.core.errors import NotPossibleHere, WorkerError
from hasten.core.machine import this_machine
from hasten.core.store import Store
from hasten.search import crew_ray
from hasten.search.crew_ray import RayCrew
from hasten.search.observer import Observer
from hasten.search.parcel import not_yet

pytestmark = pytest.mark.slow


class Ears(Observer):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.heard = threading.Event()

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)
        self.heard.set()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes that build and one that times, each with a store of its own; this process is connected."""
    import ray

    folder = tmp_path_factory.mktemp("nodes")
    with ray_helpers.cluster() as made:
        made.target = ray_helpers.add(made, folder / "target", resources={ray_helpers.LABEL: 1})
        made.builders = [ray_helpers.add(made, folder / f"builder{number}") for number in range(2)]
        ray.init(made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def crew(cluster: Any, store: Store) -> Iterator[RayCrew]:
    with RayCrew("ray", ray_helpers.LABEL, store, Observer()) as crew:
        yield crew


Step = Callable[..., str]


@pytest.fixture
def step(crew: RayCrew, store: Store, tmp_path: Path) -> Step:
    """A step of the store whose work is an errand that writes into its folder: its value, once it is sure that its file came."""

    def run(how: str, errand: Any, *args: Any) -> str:
        def work(folder: Path) -> str:
            if how == "build":
                return crew.build(errand.__name__, errand, folder, str(tmp_path / "log"), *args)
            return crew.on_target(errand, folder, str(tmp_path / "log"), *args)

        record = store.step("test", {"errand": errand.__name__, "args": args}, work)
        assert (record.folder / "node.txt").read_text() == record.value
        return str(record.value)

    return run


def test_built_beside_the_target_and_timed_on_it(cluster: Any, crew: RayCrew, step: Step) -> None:
    assert crew.builds_ahead
    assert crew.machine == this_machine()
    assert step("on_target", ray_helpers.write) == cluster.target.node_id
    assert crew.build("k", ray_helpers.where) in {node.node_id for node in cluster.builders}


def test_what_is_begun_ahead_is_done_once(crew: RayCrew, store: Store, step: Step, tmp_path: Path) -> None:
    for _ in range(2):
        crew.ahead("write", ray_helpers.write, not_yet(store), str(tmp_path / "log"))
    node = step("build", ray_helpers.write)
    assert (tmp_path / "log").read_text().split() == [node]
    assert crew.arrived() == []


@pytest.mark.parametrize("how", ["build", "on_target"])
def test_a_killed_worker_is_replaced(how: str, step: Step, tmp_path: Path) -> None:
    step(how, ray_helpers.killed_times, 2)
    assert len((tmp_path / "log").read_text().split()) == 3


@pytest.mark.parametrize("how", ["build", "on_target"])
def test_after_three_times_it_fails_with_the_cause_and_may_be_tried_again(how: str, step: Step, store: Store, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"3 times: (WorkerCrashed|ActorDied)Error") as caught:
        step(how, ray_helpers.killed_times, 3)
    assert caught.value.cause == "killed"
    assert len((tmp_path / "log").read_text().split()) == 3
    step(how, ray_helpers.killed_times, 3)  # the fourth time it is left alone, and the store kept no failure


@pytest.mark.parametrize("how", ["build", "on_target"])
def test_an_interrupt_ends_what_is_under_way(how: str, crew: RayCrew, step: Step) -> None:
    does = partial(crew.build, "k") if how == "build" else crew.on_target
    with pytest.raises(KeyboardInterrupt):
        does(ray_helpers.interrupted, os.getpid())
    step(how, ray_helpers.write)  # and the node is free again


def test_one_search_at_a_time_has_the_node_that_times(crew: RayCrew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_ray, "_PATIENCE_SECONDS", 0.5)
    ears, entered = Ears(), threading.Event()

    def second() -> None:
        with RayCrew("ray", ray_helpers.LABEL, Store(tmp_path / "second"), ears):
            entered.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert ears.heard.wait(60)
    assert "waiting for node" in ears.warnings[0]
    assert not entered.is_set()
    crew.close()
    thread.join(60)
    assert entered.is_set()


def test_a_label_that_no_node_carries(cluster: Any, store: Store) -> None:
    with pytest.raises(NotPossibleHere, match=r"^target.label: needs a node with the resource 'tpu' .* --resources="):
        RayCrew("ray", "tpu", store, Observer())


def test_a_node_with_another_library_is_named(cluster: Any, store: Store, tmp_path: Path) -> None:
    other = tmp_path / "site" / "onnxruntime-0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 0.1\n")
    node = ray_helpers.add(cluster, tmp_path / "other", paths=(str(tmp_path / "site"),))
    try:
        with pytest.raises(NotPossibleHere, match=rf"^node .*{node.node_id[:8]}.* must have onnxruntime .* but has 0\.1\."):
            RayCrew("ray", ray_helpers.LABEL, store, Observer())
    finally:
        cluster.remove_node(node)


def test_a_killed_node_loses_nothing(cluster: Any, crew: RayCrew, step: Step, tmp_path: Path) -> None:
    """The last test: it takes a node from the others."""
    survivor = step("build", ray_helpers.node_killed_once)
    dead, alive = (tmp_path / "log").read_text().split()
    assert alive == survivor != dead
    assert {dead, alive} == {node.node_id for node in cluster.builders}
