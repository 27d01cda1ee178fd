"""ONNX Runtime on the CPU."""

from __future__ import annotations

import bisect
import json
import re
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ..core.candidate import Candidate, Floor
from ..core.errors import HastenError, NotPossibleHere
from ..core.need import missing, need
from ..core.seams import Arrays, OperatorTime, Profile, Program, Runtime, Target, option
from ..core.signature import Signature
from ._folder import link_or_copy, pack, read_signature, unpacked, write_signature
from ._operators import Claim, Node, assign, read_nodes

_FILE = "model.onnx"
_LEVELS = {"all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED", "basic": "ORT_ENABLE_BASIC", "disabled": "ORT_DISABLE_ALL"}
_EVENT = "_kernel_time"
_TRUNCATED_US = 0.5  # its profiler cuts durations to whole microseconds: half of one is lost on average
_WARM_UP_CALLS = 3
# What its optimiser puts around the name of the tensor, or of the node, that an operator comes from.
_OF_TENSOR = re.compile(r"(.+)_nchwc")
_OF_NODE = re.compile(r"(?:fused )?(.+?)(?:_token_\d+|/MatMulAddFusion\S*|_matmul|_quant|_bias)*")
# Its own operators -> ONNX words, whatever the precision.
_KINDS = {
    "FusedConv": "Conv",
    "FusedGemm": "Gemm",
    "QGemm": "Gemm",
    **dict.fromkeys(("FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"), "MatMul"),
    "ConvInteger": "Conv",
}


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
    arena: bool = option(True, "Keep freed memory for the next call. Without it a process holds less; single calls were as fast.")
    packed: bool = option(False, "The model file compressed (xz), unpacked in memory at load: fewer bytes to ship, a slower start.")

    @classmethod
    def space(cls, profile: Profile) -> Iterator[Self]:
        """Without the arena too, where memory is the aim, and packed, where size is: they do nothing for speed."""
        for plain in super().space(profile):
            yield plain
            if profile.objective == "memory":
                yield replace(plain, arena=False)
            if profile.objective == "size":
                yield replace(plain, packed=True)

    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        if candidate is not None and "bfloat16-allowed" in candidate.facts:
            return "it computes in float32, so leave to use bfloat16 changes nothing"
        return missing("onnxruntime")

    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        # External weights lie beside the model under names that start with its own (model.onnx.data).
        for source in candidate.path.parent.glob(f"{candidate.path.name}*"):
            name = _FILE if source == candidate.path else source.name
            link_or_copy(source, folder / name)
        if self.packed:
            pack(folder / _FILE)
        write_signature(candidate.signature, folder)
        self.load(folder, target).close()  # an operator that it lacks shows now

    def load(self, folder: Path, target: Target) -> Program:
        ort = need("onnxruntime", why="by the runtime onnxruntime")
        signature = read_signature(folder)
        return _Session(_open(ort, folder, self._options(ort, target)), signature)

    def operator_times(self, folder: Path, target: Target, inputs: Arrays, num_calls: int) -> tuple[OperatorTime, ...]:
        ort = need("onnxruntime", why="by the runtime onnxruntime")
        with tempfile.TemporaryDirectory(prefix="hasten-profile-") as scratch:
            if (content := unpacked(folder / _FILE)) is not None:
                (Path(scratch) / _FILE).write_bytes(content)
                folder = Path(scratch)
            nodes = read_nodes(folder / _FILE)
            options = self._options(ort, target)
            options.enable_profiling, options.profile_file_prefix = True, f"{scratch}/trace"
            options.optimized_model_filepath = f"{scratch}/optimized.onnx"  # it tells which tensors an operator gives
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
            session = _open(ort, folder, options)
            for _ in range(_WARM_UP_CALLS + num_calls):
                session.run(None, dict(inputs))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf8"))
            optimized = {node.name: node for node in read_nodes(Path(options.optimized_model_filepath))}
        return _operators(nodes, optimized, list(_calls(events))[-num_calls:])

    def _options(self, ort: Any, target: Target) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.num_threads(target)
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[self.optimization])
        options.enable_cpu_mem_arena = self.arena
        options.log_severity_level = 3
        # Otherwise the pool burns a core for about 60 ms after each call, which slows every neighbour and whoever is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options


class _Session(Program):
    def __init__(self, session: Any, signature: Signature) -> None:
        self._session = session
        self._outputs = [spec.name for spec in signature.outputs]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


def _open(ort: Any, folder: Path, options: Any) -> Any:
    try:
        content = unpacked(folder / _FILE)
        return ort.InferenceSession(content or str(folder / _FILE), options, providers=["CPUExecutionProvider"])
    except HastenError:
        raise
    except Exception as error:  # its error types share no base but Exception
        raise _translate(error) from error


def _calls(events: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The operators of each call, in the order of execution, from a trace in Chrome's format."""
    starts = sorted(e["ts"] for e in events if e["name"] == "model_run")
    calls: list[list[dict[str, Any]]] = [[] for _ in starts]
    for event in sorted((e for e in events if e.get("cat") == "Node" and e["name"].endswith(_EVENT)), key=lambda e: (e["ts"], -e["dur"])):
        call = calls[bisect.bisect_right(starts, event["ts"]) - 1]
        if not call or event["ts"] >= call[-1]["ts"] + call[-1]["dur"]:  # else it lies in a branch or loop: part of the node that holds it
            call.append(event)
    yield from calls


def _operators(nodes: list[Node], optimized: dict[str, Node], calls: list[list[dict[str, Any]]]) -> tuple[OperatorTime, ...]:
    runs: dict[tuple[str, str], list[tuple[float, float]]] = {}  # name and place -> begin and duration in each call
    kinds: dict[tuple[str, str], str] = {}
    for call in calls:
        for event in call:
            key = event["name"].removesuffix(_EVENT), event["args"]["node_index"]
            kinds[key] = event["args"]["op_name"]
            runs.setdefault(key, []).append((event["ts"] - call[0]["ts"], event["dur"] + _TRUNCATED_US))
    begins = {key: statistics.median(begin for begin, _ in times) for key, times in runs.items()}
    keys = sorted(runs, key=begins.__getitem__)
    owned = assign(nodes, [_claim(name, optimized.get(name)) for name, _ in keys])
    return tuple(
        OperatorTime(
            name=key[0],
            kind=_KINDS.get(kinds[key], kinds[key].removeprefix("QLinear")),
            seconds=1e-6 * statistics.median(took for _, took in runs[key]),
            nodes=mine,
            start_seconds=1e-6 * begins[key],
        )
        for key, mine in zip(keys, owned, strict=True)
    )


def _claim(name: str, node: Node | None) -> Claim:
    of_tensor, of_node = _OF_TENSOR.fullmatch(name), _OF_NODE.fullmatch(name)
    names = (name, *((of_node[1],) if of_node else ()))
    return Claim(names=names, tensors=(*(node.outputs if node else ()), *((of_tensor[1],) if of_tensor else ())))


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
