"""OpenVINO on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ..core.candidate import Candidate, Floor
from ..core.errors import BundleError, NotPossibleHere
from ..core.need import missing, need
from ..core.seams import Arrays, Profile, Program, Runtime, Target, option
from ..core.signature import Signature
from ._folder import read_signature, write_signature

_FILE = "model.xml"
_LACKING = r"(?:No conversion rule found for operations?|not supported operations?|Unsupported operation of type):? ?([\w.:]+)"


@dataclass(frozen=True, kw_only=True)
class OpenVino(Runtime):
    """OpenVINO, CPU plug-in, float32 where the model says float32.

    A graph of fixed batch size ran about a tenth faster than one of free batch size, so the program is specialised for the
    target's batch; other batch sizes are served by a general twin, which is compiled when the first one comes.
    """

    name: ClassVar[str] = "openvino"
    floor: ClassVar[Floor] = Floor.GRAPH
    packages: ClassVar[tuple[str, ...]] = ("openvino",)

    threads: int = option(0, "Threads for one call. 0: the target's.", choices=(0, 1), low=0)
    hint: str = option("latency", "What the scheduler aims at: latency or throughput.", choices=("latency", "throughput"))

    @classmethod
    def space(cls, profile: Profile) -> Iterator[Self]:
        """The throughput hint is tried only where throughput is the aim: it makes single calls slower."""
        return (r for r in super().space(profile) if r.hint == "latency" or profile.objective == "throughput")

    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        return missing("openvino")

    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        ov = need("openvino", why="by the runtime openvino")
        try:
            model = ov.Core().read_model(candidate.path)
            ov.save_model(model, folder / _FILE, compress_to_fp16=False)
        except RuntimeError as error:
            raise _translate(error) from error
        write_signature(candidate.signature, folder)
        self.load(folder, target).close()  # an operator that the CPU lacks shows now

    def load(self, folder: Path, target: Target) -> Program:
        ov = need("openvino", why="by the runtime openvino")
        signature = read_signature(folder)
        if not (folder / _FILE).is_file():
            raise BundleError(f"program {_FILE}", "is missing", got=str(folder))
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": self.num_threads(target),
            "PERFORMANCE_HINT": self.hint.upper(),
            "INFERENCE_PRECISION_HINT": "f32",  # bf16 machines would round otherwise
        }
        if self.hint == "latency":
            settings["NUM_STREAMS"] = 1
        return _Compiled(ov.Core(), folder / _FILE, settings, signature, target.batch_size)


class _Compiled(Program):
    """One specialised request for the target's batch, one general request for all others."""

    def __init__(self, core: Any, path: Path, settings: dict[str, Any], signature: Signature, batch: int) -> None:
        self._core, self._path, self._settings, self._signature = core, path, settings, signature
        self._names = [spec.name for spec in signature.outputs]
        self._general: Any = None
        self._batch, self._special = batch, self._request(batch)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        request = self._special if self._size(inputs) == self._batch else self._any_batch()
        # Inputs are read in place; outputs are copied, or the next run would overwrite them.
        results = request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return {name: results[i] for i, name in enumerate(self._names)}

    def close(self) -> None:
        self._special = self._general = None

    def _size(self, inputs: Arrays) -> int:
        first = inputs[self._signature.inputs[0].name]
        return len(first) if first.ndim else 1

    def _any_batch(self) -> Any:
        if self._general is None:
            self._general = self._request(None)
        return self._general

    def _request(self, batch: int | None) -> Any:
        try:
            model = self._core.read_model(self._path)
            if batch is not None and self._signature.batch is None:
                model.reshape(_with_batch(model, batch))
            return self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        except RuntimeError as error:
            raise _translate(error) from error


def _with_batch(model: Any, batch: int) -> dict[Any, Any]:
    """The model's input shapes with a free first axis set to `batch`."""
    shapes = {}
    for port in model.inputs:
        shape = port.get_partial_shape()
        if len(shape) and shape[0].is_dynamic:
            shape[0] = batch
        shapes[port] = shape
    return shapes


def _translate(error: RuntimeError) -> NotPossibleHere:
    text = " ".join(str(error).split())
    if lacking := re.search(_LACKING, text):
        return NotPossibleHere("runtime openvino", f"has no operator {lacking[1]!r} for this model", hint="Another runtime may have it")
    return NotPossibleHere("runtime openvino", f"cannot compile the model ({text[-300:]})")
