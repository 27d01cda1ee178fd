"""A model on its way down: which floor it stands on, what is true of it, and everything that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from .digest import digest_json
from .signature import Signature


class Floor(StrEnum):
    """Where a candidate's model stands. It only ever goes down."""

    MODULE = "module"  # a torch.nn.Module as an exported program (.pt2): still trainable
    GRAPH = "graph"  # an ONNX file: portable
    PROGRAM = "program"  # what one runtime compiled, for this machine


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that was done: the name at the edge, the options, and the versions of the libraries that did it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """`static-int8(calibration=minmax)`: the name with the options that were set."""
        shown = ", ".join(f"{k}={_short(v)}" for k, v in self.options.items())
        return f"{self.name}({shown})" if shown else self.name

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "options": dict(self.options), "versions": dict(self.versions)}


def _short(value: Any) -> str:
    """An option's value; of a long list its length, and a few letters that tell it from others."""
    return f"{len(value)} nodes #{digest_json(value)[:4]}" if isinstance(value, tuple | list) and len(value) > 2 else str(value)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One model, its facts, its lineage.

    path: the file or folder that holds it (not part of its identity); facts: what is true of it, such as
    `int8-weights`; lossless: nothing in its past changes outputs beyond rounding; lineage[0] names the original
    by its content; notes: what its making told, for people; tried: what its last step tried
    inside, as JSON (neither is part of its identity).
    """

    floor: Floor
    path: Path
    signature: Signature
    lineage: tuple[Step, ...]
    facts: frozenset[str] = frozenset()
    lossless: bool = True
    notes: tuple[str, ...] = ()
    tried: tuple[Mapping[str, Any], ...] = ()

    @property
    def id(self) -> str:
        """Digest of all that made it: equal ids are equal models."""
        return digest_json([step.to_json() for step in self.lineage])[:12]

    @property
    def recipe(self) -> list[str]:
        """What was done to the original, in order, for people."""
        return [step.text for step in self.lineage[1:]]

    def then(
        self,
        step: Step,
        path: Path,
        *,
        floor: Floor | None = None,
        adds: frozenset[str] = frozenset(),
        lossless: bool = True,
        signature: Signature | None = None,
        notes: Sequence[str] = (),
        tried: Sequence[Mapping[str, Any]] = (),
    ) -> Candidate:
        """This candidate after one more step."""
        return replace(
            self,
            floor=floor or self.floor,
            path=path,
            lineage=(*self.lineage, step),
            facts=self.facts | adds,
            lossless=self.lossless and lossless,
            signature=signature or self.signature,
            notes=(*self.notes, *notes),
            tried=tuple(tried),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "floor": str(self.floor),
            "signature": self.signature.to_json(),
            "lineage": [step.to_json() for step in self.lineage],
            "facts": sorted(self.facts),
            "lossless": self.lossless,
            "notes": list(self.notes),
            "tried": list(self.tried),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], path: Path) -> Candidate:
        return cls(
            floor=Floor(value["floor"]),
            path=path,
            signature=Signature.from_json(value["signature"]),
            lineage=tuple(Step(**step) for step in value["lineage"]),
            facts=frozenset(value["facts"]),
            lossless=value["lossless"],
            notes=tuple(value.get("notes", ())),
            tried=tuple(value.get("tried", ())),
        )
