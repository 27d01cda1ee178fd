"""OpenVINO on the CPU."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ..core.candidate import Candidate, Floor
from ..core.errors import BundleError, NotPossibleHere
from ..core.need import missing, need
from ..core.seams import Arrays, OperatorTime, Profile, Program, Runtime, Target, option
from ..core.signature import Signature
from ._folder import is_there, pack, read_signature, unpacked, write_signature
from ._operators import HEAVY, Claim, Node, assign, kept_nodes, write_nodes

_FILE = "model.xml"
_FILES = (_FILE, "model.bin")
_PRECISION = "precision.txt"  # what floating point may be computed in, where it is not f32
_WARM_UP_CALLS = 3
_TRUNCATED_US = 1.0  # it cuts durations and their mean to whole microseconds: half of one is lost each time, on average
# Its operators -> ONNX words.
_KINDS = {
    "Convolution": "Conv",
    "GroupConvolution": "Conv",
    "Deconvolution": "ConvTranspose",
    "FullyConnected": "MatMul",
    "MVN": "LayerNormalization",
}
_LACKING = r"(?:No conversion rule found for operations?|not supported operations?|Unsupported operation of type):? ?([\w.:]+)"


@dataclass(frozen=True, kw_only=True)
class OpenVino(Runtime):
    """OpenVINO, CPU plug-in, float32 where the model says float32, unless the candidate allows bfloat16.

    A graph of fixed batch size ran about a tenth faster than one of free batch size, so the program is specialised for the
    target's batch; other batch sizes are served by a general twin, which is compiled when the first one comes.
    """

    name: ClassVar[str] = "openvino"
    floor: ClassVar[Floor] = Floor.GRAPH
    packages: ClassVar[tuple[str, ...]] = ("openvino",)

    threads: int = option(0, "Threads for one call. 0: the target's.", choices=(0, 1), low=0)
    hint: str = option("latency", "What the scheduler aims at: latency or throughput.", choices=("latency", "throughput"))
    packed: bool = option(False, "The model's files compressed (xz), unpacked in memory at load: fewer bytes to ship, a slower start.")

    @classmethod
    def space(cls, profile: Profile) -> Iterator[Self]:
        """The throughput hint is tried only where throughput is the aim: it makes single calls slower. Packed, where size is."""
        for plain in super().space(profile):
            if plain.hint == "latency" or profile.objective == "throughput":
                yield plain
                if profile.objective == "size":
                    yield replace(plain, packed=True)

    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        return missing("openvino")

    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        ov = need("openvino", why="by the runtime openvino")
        try:
            model = ov.Core().read_model(candidate.path)
            ov.save_model(model, folder / _FILE, compress_to_fp16=False)
        except RuntimeError as error:
            raise _translate(error) from error
        if self.packed:
            for file in _FILES:
                pack(folder / file)
        write_signature(candidate.signature, folder)
        write_nodes(candidate.path, folder)
        if "bfloat16-allowed" in candidate.facts:
            (folder / _PRECISION).write_text("bf16", encoding="utf8")
        self.load(folder, target).close()  # an operator that the CPU lacks shows now

    def load(self, folder: Path, target: Target) -> Program:
        ov = need("openvino", why="by the runtime openvino")
        return self._program(ov, folder, target, {})

    def operator_times(self, folder: Path, target: Target, inputs: Arrays, num_calls: int) -> tuple[OperatorTime, ...]:
        ov = need("openvino", why="by the runtime openvino")
        return self._program(ov, folder, target, {"PERF_COUNT": True}).operator_times(inputs, num_calls, kept_nodes(folder))

    def _program(self, ov: Any, folder: Path, target: Target, more: dict[str, Any]) -> _Compiled:
        signature = read_signature(folder)
        if not is_there(folder / _FILE):
            raise BundleError(f"program {_FILE}", "is missing", got=str(folder))
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": self.num_threads(target),
            "PERFORMANCE_HINT": self.hint.upper(),
            "INFERENCE_PRECISION_HINT": _precision(folder),
            **more,
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
        self._batch, self._model = batch, self._compiled(batch)
        self._special = self._model.create_infer_request()

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        request = self._special if self._size(inputs) == self._batch else self._any_batch()
        # Inputs are read in place; outputs are copied, or the next run would overwrite them.
        results = request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return {name: results[i] for i, name in enumerate(self._names)}

    def operator_times(self, inputs: Arrays, num_calls: int, nodes: list[Node]) -> tuple[OperatorTime, ...]:
        """Where the time of a call goes: the mean over calls, since nothing else is kept. Needs PERF_COUNT."""
        for _ in range(_WARM_UP_CALLS):
            self.run(inputs)
        before = {info.node_name: _microseconds(info) for info in self._special.get_profiling_info()}
        for _ in range(num_calls):
            self.run(inputs)
        ran = [info for info in self._special.get_profiling_info() if info.status == info.Status.EXECUTED]
        counted, total = _WARM_UP_CALLS, _WARM_UP_CALLS + num_calls
        micros = [max(0.0, total * _microseconds(i) - counted * before.get(i.node_name, 0.0)) / num_calls + _TRUNCATED_US for i in ran]
        layers = {op.get_friendly_name(): op for op in self._model.get_runtime_model().get_ordered_ops()}
        kinds = {node.name: node.kind for node in nodes}
        owned = assign(nodes, [_claim(info.node_name, layers.get(info.node_name), kinds) for info in ran])
        begins = np.concatenate([[0.0], np.cumsum(micros)[:-1]])
        return tuple(
            OperatorTime(
                name=info.node_name,
                kind=_kind(info.node_type, [kinds[n] for n in mine]),
                seconds=1e-6 * took,
                nodes=mine,
                start_seconds=1e-6 * float(begin),
            )
            for info, mine, took, begin in zip(ran, owned, micros, begins, strict=True)
        )

    def close(self) -> None:
        self._special = self._general = self._model = None

    def _size(self, inputs: Arrays) -> int:
        first = inputs[self._signature.inputs[0].name]
        return len(first) if first.ndim else 1

    def _any_batch(self) -> Any:
        if self._general is None:
            self._general = self._compiled(None).create_infer_request()
        return self._general

    def _compiled(self, batch: int | None) -> Any:
        try:
            content = [unpacked(self._path.with_name(file)) for file in _FILES]
            model = self._core.read_model(*content) if all(part is not None for part in content) else self._core.read_model(self._path)
            if batch is not None and self._signature.batch is None:
                model.reshape(_with_batch(model, batch))
            return self._core.compile_model(model, "CPU", self._settings)
        except RuntimeError as error:
            raise _translate(error) from error


def _precision(folder: Path) -> str:
    """`f32` has to be said: machines with bfloat16 would round otherwise."""
    path = folder / _PRECISION
    return path.read_text(encoding="utf8").strip() if path.is_file() else "f32"


def _microseconds(info: Any) -> float:
    return 1e6 * float(info.real_time.total_seconds())


def _kind(told: str, of_nodes: list[str]) -> str:
    """That of the one heavy node that it computes; with several (attention in one piece) or none, OpenVINO's own word."""
    heavy = [kind.removesuffix("Integer") for kind in of_nodes if kind in HEAVY]
    return heavy[0] if len(heavy) == 1 else _KINDS.get(told, told)


def _claim(name: str, layer: Any, known: Collection[str]) -> Claim:
    """The operator itself and the layers that it was made of, by name; a graph's last layers bear the names of their tensors.

    Where one node became several layers, they are called `node/WithoutBiases`, `node/DequantizationMultiply` ...
    """
    told = layer.get_rt_info() if layer is not None else {}
    words = [name, *(str(told["originalLayersNames"].value).split(",") if "originalLayersNames" in told else ())]
    parts = [next((w for w in accumulate(word.split("/"), "{}/{}".format) if w in known), word) for word in words]
    return Claim(names=tuple(dict.fromkeys(parts)), tensors=tuple(words))


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
