"""The null runtime needs no model library, and never takes a real candidate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.registry import get
from hasten.core.seams import Runtime, Target
from hasten.core.signature import Signature, TensorSpec

TARGET = Target(threads=1)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(None, 4)),),
    outputs=(TensorSpec(name="class", dtype="int64", shape=(None,)), TensorSpec(name="score", dtype="float32", shape=(None, 3))),
)


def candidate(*facts: str) -> Candidate:
    return Candidate(floor=Floor.GRAPH, path=Path("none"), signature=SIGNATURE, lineage=(Step(name="original"),), facts=frozenset(facts))


def test_it_refuses_a_real_candidate_in_one_sentence() -> None:
    assert get(Runtime, "null")().fits(candidate(), TARGET) == "it computes nothing: it is there for tests"


def test_it_is_not_planned() -> None:
    assert get(Runtime, "null")().fits(None, TARGET) is not None


def test_it_gives_zeros_of_the_output_signature(tmp_path: Path) -> None:
    runtime = get(Runtime, "null")()
    allowed = candidate("null-allowed")
    assert runtime.fits(allowed, TARGET) is None
    runtime.compile(allowed, TARGET, tmp_path)
    outputs = runtime.load(tmp_path, TARGET).run({"x": np.ones((5, 4), np.float32)})
    assert {name: (a.dtype.name, a.shape) for name, a in outputs.items()} == {"class": ("int64", (5,)), "score": ("float32", (5, 3))}
    assert not any(array.any() for array in outputs.values())
