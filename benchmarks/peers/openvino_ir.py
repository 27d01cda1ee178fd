"""A plug-in of hasten: a model in OpenVINO's own format, as NNCF's peers make it; hasten's runtime `openvino` takes ONNX graphs.

It is loaded with the settings of that runtime, so that both run alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hasten.core.candidate import Candidate, Floor
from hasten.core.need import missing
from hasten.core.seams import Program, Runtime, Target, option
from hasten.runtimes._folder import link_or_copy, write_signature
from hasten.runtimes.openvino import OpenVino


@dataclass(frozen=True, kw_only=True)
class OpenVinoIr(Runtime):
    """An .xml file with its .bin."""

    name: ClassVar[str] = "openvino-ir"
    floor: ClassVar[Floor] = Floor.GRAPH
    packages: ClassVar[tuple[str, ...]] = ("openvino",)

    threads: int = option(0, "Threads for one call. 0: the target's.", choices=(0,), low=0)

    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        if candidate is not None and candidate.path.suffix != ".xml":
            return "it runs models in OpenVINO's own format"
        return missing("openvino")

    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        for suffix in (".xml", ".bin"):
            link_or_copy(candidate.path.with_suffix(suffix), folder / f"model{suffix}")
        write_signature(candidate.signature, folder)
        self.load(folder, target).close()

    def load(self, folder: Path, target: Target) -> Program:
        return OpenVino(threads=self.threads).load(folder, target)
