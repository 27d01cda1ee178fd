"""A workload: one model, its data, and what good means."""

from __future__ import annotations

from dataclasses import dataclass

from .candidate import Candidate
from .preprocess import ImagePreprocess
from .samples import Splits


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is to be made fast.

    name: for people and folders; original: the model as it came; preprocess: what happens to pictures before it, None
    where the data are tensors already; labels: class names in the order of the outputs; output: the one that is judged; teacher: whose
    answers students learn where they are not the original's: a model on the module floor, or the address of a server's.
    """

    name: str
    original: Candidate
    splits: Splits
    preprocess: ImagePreprocess | None = None
    labels: tuple[str, ...] | None = None
    output: str
    teacher: Candidate | str | None = None

    @property
    def teacher_id(self) -> str:
        """Names whose answers students learn."""
        teacher = self.teacher or self.original
        return teacher if isinstance(teacher, str) else teacher.id
