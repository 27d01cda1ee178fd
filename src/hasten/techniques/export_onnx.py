"""From PyTorch to a portable ONNX graph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.candidate import Candidate, Floor
from ..core.errors import ExportError, HastenError
from ..core.need import missing, need
from ..core.seams import Context, Forecast, Profile, Technique, option
from ..core.signature import Signature
from ._graph import quietly, write_graph


@dataclass(frozen=True, kw_only=True)
class ExportOnnx(Technique):
    """The exported program as ONNX, by PyTorch's own exporter: free batch axis, names of the signature."""

    name: ClassVar[str] = "export-onnx"
    floor: ClassVar[Floor] = Floor.MODULE
    lossless: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")

    opset: int = option(20, "ONNX operator set. 20 is the newest one that every runtime and quantizer here reads.", low=18, high=23)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return missing("torch", "onnx", "onnxscript")

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.0, seconds=15.0)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        torch = need("torch", why="to export the model")
        for package in ("onnx", "onnxscript"):
            need(package, why="to export the model")
        torch.set_num_threads(context.threads)
        signature = candidate.signature
        try:
            with quietly("technique export-onnx"):
                program = torch.onnx.export(
                    torch.export.load(candidate.path),
                    dynamo=True,
                    optimize=True,
                    verbose=False,
                    opset_version=self.opset,
                    input_names=[spec.name for spec in signature.inputs],
                    output_names=[spec.name for spec in signature.outputs],
                )
                _free_output_names(program.model.graph)
                model = program.model_proto
        except HastenError as error:
            raise _translate(error.__cause__ or error) from error
        _check_names(model, signature)
        path = write_graph(model, context.folder)
        return candidate.then(self.step(), path, floor=Floor.GRAPH)


def _free_output_names(graph: Any) -> None:
    """An inner value must not have the name of an output: the exporter names inner values after operators, such as `embedding`."""
    outputs = list(graph.outputs)
    taken = {value.name for value in outputs}
    for node in graph:
        for value in node.outputs:
            if value.name in taken and not any(value is output for output in outputs):
                value.name = f"{value.name}_inner"


def _check_names(model: Any, signature: Signature) -> None:
    for side, specs, values in (("inputs", signature.inputs, model.graph.input), ("outputs", signature.outputs, model.graph.output)):
        want, got = [spec.name for spec in specs], [value.name for value in values]
        if want != got:
            raise ExportError(f"exported {side}", f"must be {', '.join(want)}", got=", ".join(got), hint="Give each tensor one name")


def _translate(error: BaseException) -> ExportError:
    """The innermost cause speaks: the exporter wraps it several times."""
    texts = []
    link: BaseException | None = error
    while link is not None:
        texts.append(str(link))
        link = link.__cause__
    if lacking := re.search(r"(?:No decompositions registered for|No ONNX function found for|for) [^.]*?['<]*(?:OpOverload\(op=')?"
                            r"((?:aten|prims|torchvision|\w+)[.:]+\w+(?:\.\w+)?)", " ".join(texts)):  # fmt: skip
        return ExportError(
            f"operator {lacking[1]}",
            "has no form in ONNX",
            hint="Replace it in the model's forward by operators that have one, or bring an ONNX file",
        )
    return ExportError(
        "export", f"to ONNX failed ({' '.join(texts[-1].split())[:300]})", hint="Bring an ONNX file, or use the runtime eager"
    )
