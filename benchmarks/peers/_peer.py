"""What the peers' scripts share. Runs in each peer's own environment, so it needs numpy alone.

    python benchmarks/peers/NAME.py INPUTS OUT VARIANT

INPUTS   model.onnx, model.pt2 (the same model as a torch exported program), calibrate/INPUT.npy and select/INPUT.npy, each [N, ...],
         labels.npy of select, request.json (the fields of Request)
OUT      the program that the peer makes, and result.json: {program, runtime, options, settings, seconds, versions} or {problem}
VARIANT  default: what its documentation shows first; best: what is known to work best on this machine
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Request:
    """What a peer is given.

    source: FILE:FUNCTION that builds the module, FILE from the root of the checkout; limit: points of accuracy that may be lost;
    output: the judged one; threads: of one call; transformer: whether the graph is one; saturates: whether products of full-range
    uint8 and int8 overflow on this machine (x86 without VNNI).
    """

    folder: Path
    out: Path
    source: str
    limit: float
    inputs: list[str]
    output: str
    threads: int
    transformer: bool
    saturates: bool

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    def samples(self, split: str, count: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """One sample after the other, each with a batch axis of 1."""
        arrays = {name: np.load(self.folder / split / f"{name}.npy", mmap_mode="r") for name in self.inputs}
        length = min(len(array) for array in arrays.values())
        return ({name: np.array(array[i : i + 1]) for name, array in arrays.items()} for i in range(min(length, count or length)))

    def labels(self) -> np.ndarray:
        """Of the select split, [N]."""
        return np.load(self.folder / "labels.npy")

    def accuracy(self, call: Callable[[dict[str, np.ndarray]], np.ndarray]) -> float:
        """The share of select, 0 to 1, that `call` gets right; `call` maps one sample to the judged output [1, classes]."""
        right = [int(call(sample).argmax()) == label for sample, label in zip(self.samples("select"), self.labels(), strict=True)]
        return float(np.mean(right))


@dataclass(frozen=True)
class Made:
    """What a peer made. program: file in OUT; runtime: hasten's name of what runs it; options: of that runtime; settings: one sentence."""

    program: str
    runtime: str
    settings: str
    packages: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


class NotMade(Exception):
    """Why the peer made nothing, in one sentence."""


def main(make: Callable[[Request, str], Made]) -> None:
    """The body of every script. `make(request, variant)` is what is timed."""
    folder, out, variant = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3]
    out.mkdir(parents=True, exist_ok=True)
    request = read_request(folder, out)
    began = time.perf_counter()
    try:
        made = make(request, variant)
    except NotMade as error:
        write(out, {"problem": str(error)})
        return
    write(out, {
        "program": made.program, "runtime": made.runtime, "options": made.options, "settings": made.settings,
        "seconds": round(time.perf_counter() - began, 1), "versions": {name: importlib.metadata.version(name) for name in made.packages},
    })  # fmt: skip


def read_request(folder: Path, out: Path) -> Request:
    """The request in INPUTS."""
    return Request(folder=folder, out=out, **json.loads((folder / "request.json").read_text()))


def write(out: Path, result: dict[str, Any]) -> None:
    """result.json."""
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
