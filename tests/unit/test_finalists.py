"""Who may see the certify split, in an order that is fixed before."""

from __future__ import annotations

from pathlib import Path

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.measurement import Interval
from hasten.core.signature import Signature
from hasten.core.trial import Trial
from hasten.measure.quality import METRICS
from hasten.runtimes.null import Null
from hasten.search.certify import MAX_FINALISTS, cannot_be_proved, choose_finalists
from hasten.search.explore import Explored

START = Candidate(floor=Floor.GRAPH, path=Path("net.onnx"), signature=Signature(inputs=(), outputs=()), lineage=(Step(name="net"),))


def program(name: str, bound: float) -> Trial:
    """Whose loss is at most `bound` points; the limit is 1."""
    drop = Interval(value=0.0, low=-bound, high=bound, level=0.95, n=100)
    return Trial(candidate=START.then(Step(name=name), START.path, lossless=False), runtime=Null(), drop=drop)


def chosen(*contenders: Trial) -> list[str]:
    start = Trial(candidate=START, runtime=Null())
    explored = Explored(start=start, reference=start, contenders=contenders)
    return [t.candidate.lineage[-1].name for t in choose_finalists(explored, lambda drop: 1.0 - drop.high)]


def test_the_fastest_that_are_likely_come_first_and_the_safest_last() -> None:
    programs = [program("fast", 1.2), program("brother", 0.9), program("sister", 0.8), program("cousin", 0.85), program("safe", 0.1)]
    assert chosen(*programs) == ["brother", "sister", "safe"]


def test_of_equally_safe_ones_the_fastest_is_taken_and_few_are_all_taken() -> None:
    assert chosen(*(program(name, 0.5) for name in "abcde")) == ["a", "b", "c"]
    assert chosen(program("a", 2.0)) == ["a"]
    assert chosen() == []
    assert MAX_FINALISTS == 3


def test_other_knobs_of_a_candidate_are_not_another_one() -> None:
    one = program("a", 0.5)
    assert chosen(one, one.with_(reason="again"), program("b", 0.5)) == ["a", "b"]


def test_too_few_samples_for_any_proof_are_told_before_the_search() -> None:
    told = cannot_be_proved(METRICS["accuracy"], 420, 0.5)
    assert told is not None
    assert "420 samples" in told
    assert "0.71 points" in told  # 1 - 0.05 ** (1 / 420)
    assert cannot_be_proved(METRICS["accuracy"], 420, 1.0) is None
    assert cannot_be_proved(METRICS["accuracy"], 598, 0.5) is None
    assert cannot_be_proved(METRICS["cosine"], 10, 0.5) is None
