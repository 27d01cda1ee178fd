"""ONNX Runtime on the CPU."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..core.candidate import Candidate, Floor
from ..core.errors import NotPossibleHere
from ..core.need import missing, need
from ..core.seams import Arrays, Program, Runtime, Target, option
from ..core.signature import Signature
from ._folder import link_or_copy, read_signature, write_signature

_FILE = "model.onnx"
_LEVELS = {"all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED", "basic": "ORT_ENABLE_BASIC", "disabled": "ORT_DISABLE_ALL"}


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(Runtime):
    """ONNX Runtime, CPU execution provider. Runs any ONNX file; the fast int8 kernels want QDQ graphs with uint8 activations."""

    name: ClassVar[str] = "onnxruntime"
    defines_right: ClassVar[bool] = True
    floor: ClassVar[Floor] = Floor.GRAPH
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    threads: int = option(0, "Threads that one operator may use. 0: the target's.", choices=(0, 1), low=0)
    optimization: str = option(
        "all",
        "Graph optimisations at load: all, extended (no memory layouts of this CPU), basic (no fusions of its own) or disabled.",
        choices=("all",),
        allowed=tuple(_LEVELS),
    )

    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        return missing("onnxruntime")

    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        # External weights lie beside the model under names that start with its own (model.onnx.data).
        for source in candidate.path.parent.glob(f"{candidate.path.name}*"):
            name = _FILE if source == candidate.path else source.name
            link_or_copy(source, folder / name)
        write_signature(candidate.signature, folder)
        self.load(folder, target).close()  # an operator that it lacks shows now

    def load(self, folder: Path, target: Target) -> Program:
        ort = need("onnxruntime", why="by the runtime onnxruntime")
        signature = read_signature(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.num_threads(target)
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[self.optimization])
        options.log_severity_level = 3
        # Otherwise the pool burns a core for about 60 ms after each call, which slows every neighbour and whoever is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = ort.InferenceSession(str(folder / _FILE), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its error types share no base but Exception
            raise _translate(error) from error
        return _Session(session, signature)


class _Session(Program):
    def __init__(self, session: Any, signature: Signature) -> None:
        self._session = session
        self._outputs = [spec.name for spec in signature.outputs]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


def _translate(error: Exception) -> NotPossibleHere:
    text = " ".join(str(error).split())
    lacking = re.search(r"implementation for ([\w.:]+)", text) or re.search(r"([\w.:]+)\(-?\d+\) is not a registered function/op", text)
    if lacking:
        return NotPossibleHere(
            "runtime onnxruntime",
            f"has no operator {lacking[1]!r} for this model",
            hint="Another runtime may have it, or export the model with an older opset",
        )
    if "opset" in text:
        return NotPossibleHere("runtime onnxruntime", f"does not know the model's opset ({text[:200]})", hint="Export with an older opset")
    return NotPossibleHere("runtime onnxruntime", f"cannot load the model ({text[:300]})")
