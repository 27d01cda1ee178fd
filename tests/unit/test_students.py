"""What training made is worked on further, and what was fast and not right is trained for."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from hasten.core.candidate import Candidate, Floor
from hasten.core.candidate import Step as Done
from hasten.core.machine import this_machine
from hasten.core.measurement import Interval
from hasten.core.registry import find, get
from hasten.core.seams import Context, Forecast, Profile, Target, Technique
from hasten.core.signature import Signature
from hasten.core.trial import Trial
from hasten.runtimes.null import Null
from hasten.search import workshop
from hasten.search.planner import Step
from hasten.search.students import Base, Students

PROFILE = Profile(machine=this_machine(), target=Target(threads=1), num_train=100, epoch_seconds=1.0)
LIMIT = 1.0  # points
MODULE = Candidate(floor=Floor.MODULE, path=Path("net.pt2"), signature=Signature(inputs=(), outputs=()), lineage=(Done(name="net"),))
GRAPH = MODULE.then(Done(name="export"), Path("net.onnx"), floor=Floor.GRAPH)


@dataclass(frozen=True, kw_only=True)
class Planned(Technique):
    """Only planned with."""

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return None

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.0, seconds=1.0)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        raise NotImplementedError


class Round(Planned):
    name: ClassVar[str] = "round"
    adds: ClassVar[frozenset[str]] = frozenset({"int8-weights", "int8-activations"})


class Rehearse(Planned):
    name: ClassVar[str] = "rehearse"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    rescues: ClassVar[frozenset[str]] = frozenset({"int8-activations"})
    forbids: ClassVar[frozenset[str]] = frozenset({"rehearsed"})
    adds: ClassVar[frozenset[str]] = frozenset({"rehearsed"})


class Move(Planned):
    name: ClassVar[str] = "move"
    rescues: ClassVar[frozenset[str]] = frozenset({"int8-activations"})


class Prune(Planned):
    name: ClassVar[str] = "prune"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True


class Teach(Planned):
    name: ClassVar[str] = "teach"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    heals: ClassVar[frozenset[str]] = frozenset({"pruned"})
    forbids: ClassVar[frozenset[str]] = frozenset({"taught"})
    adds: ClassVar[frozenset[str]] = frozenset({"taught"})


def rounded(base: Candidate = GRAPH, speedup: float = 2.0) -> tuple[Trial, Step]:
    technique = Round()
    made = base.then(technique.step(), Path("int8.onnx"), adds=technique.adds, lossless=False)
    interval = Interval(value=speedup, low=speedup, high=speedup, level=0.95, n=1)
    return Trial(candidate=made, runtime=Null(), speedup=interval), Step(candidate=base, technique=technique, runtime=Null())


def test_what_was_fast_and_unsure_is_trained_for_and_done_again() -> None:
    trial, step = rounded()
    (rescue,) = Students(Base(module=MODULE, graph=GRAPH)).rescues([Rehearse], [(trial, step)], PROFILE, LIMIT)
    assert (rescue.candidate, rescue.technique, rescue.then) == (MODULE, Rehearse(), Round())
    assert rescue.known_log_speedup == pytest.approx(math.log(2.0))
    assert rescue.planned.facts >= Rehearse.adds | Round.adds


def test_what_prepares_a_graph_is_done_to_the_graph_and_what_trains_to_the_module() -> None:
    rescues = list(Students(Base(module=MODULE, graph=GRAPH)).rescues([Rehearse, Move], [rounded()], PROFILE, LIMIT))
    assert [(r.candidate, r.technique, r.then) for r in rescues] == [(MODULE, Rehearse(), Round()), (GRAPH, Move(), Round())]
    only_graph = list(Students(Base(module=GRAPH, graph=GRAPH)).rescues([Rehearse, Move], [rounded()], PROFILE, LIMIT))
    assert [r.technique for r in only_graph] == [Move()]


def test_a_rescue_is_not_rescued_nor_what_it_cannot_help() -> None:
    students = Students(Base(module=MODULE, graph=GRAPH))
    trial, step = rounded()
    (rescue,) = students.rescues([Rehearse], [(trial, step)], PROFILE, LIMIT)
    assert list(students.rescues([Rehearse], [(trial, rescue)], PROFILE, LIMIT)) == []
    plain = Trial(candidate=GRAPH, runtime=Null(), speedup=trial.speedup)
    assert list(students.rescues([Rehearse], [(plain, step)], PROFILE, LIMIT)) == []


def test_a_trained_model_that_may_be_right_is_a_base_and_another_is_not() -> None:
    step = Step(candidate=MODULE, technique=Prune(), runtime=Null())
    module = MODULE.then(Prune().step(), Path("pruned.pt2"), lossless=False)
    graph = module.then(Done(name="export"), Path("pruned.onnx"), floor=Floor.GRAPH)
    trial = Trial(candidate=graph, runtime=Null())
    for right, bases in ((0.0, 1), (0.3, 2)):
        students = Students(Base(module=MODULE, graph=GRAPH))
        students.built(step.build_key, module)
        students.note(step, trial, 1.5, right, 1.2)
        assert len(students.bases) == bases
    base = students.bases[step.build_key]
    assert (base.module, base.graph, base.right) == (module, graph, 0.3)
    assert base.log_factor == pytest.approx(math.log(1.5 * 1.2))  # in its own runtime, where the original is slower than the reference
    (rescue,) = students.rescues([Rehearse], [rounded(graph, 3.0)], PROFILE, LIMIT)
    assert rescue.candidate == module
    (of_original,) = students.rescues([Rehearse], [rounded(GRAPH, 3.0)], PROFILE, LIMIT)
    assert rescue.right is not None
    assert of_original.right > rescue.right > base.right  # type: ignore[operator]


def test_a_trained_model_that_lost_too_much_is_trained_for_longer_once() -> None:
    students = Students(Base(module=MODULE, graph=GRAPH))
    step = Step(candidate=MODULE, technique=Prune(), runtime=Null())
    module = MODULE.then(Prune().step(), Path("pruned.pt2"), adds=frozenset({"pruned"}), lossless=False)
    students.built(step.build_key, module)
    trial = Trial(candidate=module.then(Done(name="export"), Path("pruned.onnx"), floor=Floor.GRAPH), runtime=Null())
    assert list(students.rescues([Teach], [(trial, step)], PROFILE, LIMIT)) == []  # it is not known to be fast
    trial = replace(trial, speedup=rounded()[0].speedup)
    (longer,) = students.rescues([Teach], [(trial, step)], PROFILE, LIMIT)
    assert (longer.candidate, longer.technique, longer.then) == (module, Teach(), None)
    far, near = (replace(trial, drop=Interval(value=lost, low=lost, high=lost)) for lost in (10 * LIMIT, 1.2 * LIMIT))
    (hopeless,), (hopeful,) = (students.rescues([Teach], [(one, step)], PROFILE, LIMIT) for one in (far, near))
    assert hopeless.right is not None
    assert hopeful.right == longer.right > 4 * hopeless.right


def test_training_on_is_as_long_as_what_is_left_of_the_network_allows() -> None:
    profile = replace(PROFILE, epoch_seconds=100.0, teacher_seconds=20.0, asks_anew=True, train_seconds=4 * 250.0)
    technique = get(Technique, "structured-pruning")(share=0.9, time_share=0.9, epochs=4)
    step, students = Step(candidate=MODULE, technique=technique, runtime=Null()), Students(Base(module=MODULE, graph=GRAPH))
    module = MODULE.then(technique.step(), Path("pruned.pt2"), adds=technique.adds, lossless=False)
    students.built(step.build_key, module)
    graph = module.then(Done(name="export"), Path("pruned.onnx"), floor=Floor.GRAPH)
    trial = Trial(candidate=graph, runtime=Null(), speedup=rounded()[0].speedup)
    heals = [kind for kind in find(Technique).values() if kind.heals & technique.adds]
    (longer,) = students.rescues(heals, [(trial, step)], profile, LIMIT)
    assert longer.profile is not None
    assert longer.technique is not None
    asked = longer.technique.expects(longer.profile).seconds
    assert 0.8 * 250.0 < asked <= 250.0  # a quarter, used up
    assert longer.technique.epochs > 4  # type: ignore[attr-defined]
    assert longer.technique.expects(profile).seconds > 2 * asked  # of a network as large as the original
    taught = module.then(Teach().step(), Path("taught.pt2"), adds=Teach.adds, lossless=False)
    students.built(longer.build_key, taught)
    trial = replace(trial, candidate=taught.then(Done(name="export"), Path("taught.onnx"), floor=Floor.GRAPH))
    assert list(students.rescues([Teach], [(trial, longer)], PROFILE, LIMIT)) == []


def test_steps_that_do_other_things_afterwards_are_other_steps() -> None:
    plain = Step(candidate=MODULE, technique=Rehearse(), runtime=Null())
    rescue = Step(candidate=MODULE, technique=Rehearse(), then=Round(), runtime=Null())
    assert plain.build_key != rescue.build_key
    assert rescue.text == "rehearse > round > null"


def test_what_was_trained_is_named_by_the_code_that_trains(tmp_path: Path) -> None:
    room = shutil.copytree(Path(workshop.__file__).parents[1] / "train", tmp_path / "train")
    (room / "notes.txt").write_text("no code")
    assert workshop.training_code(room) == workshop.training_code()
    with (room / "loop.py").open("a") as file:
        file.write("# another way to train")
    assert workshop.training_code(room) != workshop.training_code()
