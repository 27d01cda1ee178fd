"""What goes into a model and what comes out, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .errors import DataError


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One named tensor. `shape` counts the batch axis first; None is an axis of any length."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def problem(self, array: np.ndarray) -> str | None:
        """Why `array` cannot be this tensor, or None."""
        if array.ndim != len(self.shape):
            return f"must have {len(self.shape)} axes {self.shape_text}, but got {array.ndim} axes {array.shape}"
        for want, got in zip(self.shape, array.shape, strict=True):
            if want is not None and want != got:
                return f"must have shape {self.shape_text}, but got {array.shape}"
        if not np.can_cast(array.dtype, np.dtype(self.dtype), "same_kind"):
            return f"must be {self.dtype}, but got {array.dtype}"
        return None

    @property
    def shape_text(self) -> str:
        return "(" + ", ".join("N" if n is None else str(n) for n in self.shape) + ")"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """All inputs and outputs of a model, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where the batch axis is free."""
        return self.inputs[0].shape[0] if self.inputs[0].shape else None

    def check(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`inputs` in the model's order and dtypes. Raises DataError, naming the tensor, for anything that does not fit."""
        names = [spec.name for spec in self.inputs]
        for name in inputs:
            if name not in names:
                raise DataError(f"input {name!r}", "must be one of the model's inputs " + ", ".join(names))
        checked = {}
        for spec in self.inputs:
            if spec.name not in inputs:
                raise DataError(f"input {spec.name!r}", "is missing", hint="The model wants " + ", ".join(names))
            array = np.asarray(inputs[spec.name])
            if problem := spec.problem(array):
                raise DataError(f"input {spec.name!r}", problem)
            checked[spec.name] = np.ascontiguousarray(array, dtype=spec.dtype)
        return checked

    def to_json(self) -> dict[str, object]:
        return {
            side: [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in specs]
            for side, specs in (("inputs", self.inputs), ("outputs", self.outputs))
        }

    @classmethod
    def from_json(cls, value: Mapping[str, list[dict[str, object]]]) -> Signature:
        def specs(side: str) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(name=str(s["name"]), dtype=str(s["dtype"]), shape=tuple(s["shape"]))  # type: ignore[arg-type]
                for s in value[side]
            )

        return cls(inputs=specs("inputs"), outputs=specs("outputs"))
