"""A student learns what the original answers: a smaller network, the user's own, or what another technique left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from ..core.callables import call
from ..core.candidate import Candidate, Floor
from ..core.errors import NotPossibleHere
from ..core.seams import Context, Forecast, Profile, Technique, option
from ..core.signature import Signature
from ..train import nets, texts
from ..train.attention import Transformer
from ..train.loop import Plan
from ..train.student import Student, cannot_train
from ._graph import is_transformer

if TYPE_CHECKING:
    from torch import fx

_GENTLE = 1e-3
_ENCODER = {"width": 192, "depth": 3, "learning_rate": _GENTLE}  # half of MiniLM-L6's, each way


@dataclass(frozen=True, kw_only=True)
class Distillation(Technique):
    """Knowledge distillation (Hinton, Vinyals & Dean 2015, arXiv:1503.02531). The student is taught the original's softened scores and the
    labels, and where `features` says so also what the original knows before its last layer, through a learnt map (Romero et al. 2015,
    arXiv:1412.6550). What the original answers is computed once and kept on disk for every student of the same seed.

    Built students: resnet; mobilenet (separable blocks, Howard et al. 2017, arXiv:1704.04861); mobilenetv2 (Sandler et al. 2018,
    arXiv:1801.04381); efficientnet-lite (Liu 2020, of Tan & Le 2019, arXiv:1905.11946); vit (a small transformer on convolutions, after
    Wu et al. 2022, arXiv:2207.10666); mlp; and for text encoder (after Wang et al. 2020, arXiv:2002.10957), which has all outputs of the
    original and starts with its table of tokens by its first principal components.
    """

    name: ClassVar[str] = "distillation"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    heals: ClassVar[frozenset[str]] = frozenset({"channels-pruned", "low-rank"})
    forbids: ClassVar[frozenset[str]] = frozenset({"distilled", "sparse-weights"})  # training would fill the zeros
    adds: ClassVar[frozenset[str]] = frozenset({"distilled"})
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    student: str = option(
        "resnet", "What learns: resnet, mobilenet, mobilenetv2, efficientnet-lite, vit (pictures), mlp or encoder (text), built to the "
        "task's input; same (the model as it is) or own.", choices=("resnet", "same", "encoder"), allowed=(*nets.KINDS, "same", "own"),
    )  # fmt: skip
    source: tuple[str, ...] = option(
        (), "Where student is own: one file.py:function that returns a torch.nn.Module, from the folder one is in."
    )
    width: int = option(
        16, "Channels of the built network's first stage; of vit and encoder the numbers of a token, in heads of 32.", choices=(16,), low=1
    )
    depth: int = option(1, "Blocks of each of its stages; of vit and encoder, of all of it.", choices=(1,), low=1)
    epochs: int = option(10, "Passes over the train split.", choices=(10,), low=0)
    learning_rate: float = option(3e-3, "At its highest.", low=0.0)
    temperature: float = option(3.0, "Softens both distributions.", low=1.0)
    alpha: float = option(0.7, "The teacher's share of the loss; the labels have the rest.", low=0.0, high=1.0)
    features: float = option(0.0, "How much the distance of features counts beside the loss of the scores.", low=0.0)
    relations: float = option(
        0.0, "How much it counts how samples lie to one another by their features (Park et al. 2019, arXiv:1904.05068).", low=0.0
    )  # fmt: skip

    @classmethod
    def space(cls, profile: Profile) -> Iterator[Self]:
        """What was trained before is trained on gently. An encoder is built where the graph looks something up and attends to it."""
        reads = is_transformer(profile.operators) and "Gather" in profile.operators
        for one in super().space(profile):
            if one.student == "encoder":
                yield from [replace(one, **_ENCODER)] if reads else []  # type: ignore[arg-type]
            else:
                yield replace(one, learning_rate=_GENTLE) if one.student == "same" else one

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if (self.student == "own") != (len(self.source) == 1):
            return "a student of one's own needs its source, and only such a student"
        if candidate is not None and self.student == "same" and not self.heals & candidate.facts:
            return "nothing was taken away that it could teach again"
        if candidate is not None and self.student in nets.KINDS:
            if self.heals & candidate.facts:
                return "it would throw away what was cut and trained: it starts from the original"
            if why_not := self._why_not(candidate.signature):
                return why_not
        return cannot_train(profile, "torch")

    def _why_not(self, signature: Signature) -> str | None:
        """Why the student is not built for such a model, or None."""
        if self.student == "encoder":
            return texts.why_not(signature)
        if len(signature.outputs) != 1 or len(signature.inputs) != 1:
            return "a network is built for models with one input and one output only"
        shape = signature.inputs[0].shape
        if self.student in nets.PICTURES and len(shape) != 4:
            return "a network is built for pictures only"
        if self.student == "vit" and None in shape[1:]:
            return "a vision transformer is built for pictures of one size only, since it learns where each part of them is"
        return None

    def expects(self, profile: Profile) -> Forecast:
        small = self.student in nets.KINDS
        # A guess before anything is measured: these networks are made to be several times smaller than what people bring.
        speedup, smaller, risk = (2.0, 4.0, 0.75) if small else (1.0, 1.0, 0.0)
        return Forecast(speedup=speedup, seconds=profile.training_seconds(self.epochs, 1 / speedup), smaller=smaller, risk=risk)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        student = Student.taught_in(
            context, candidate, alpha=self.alpha, temperature=self.temperature, features_share=self.features,
            relations_share=self.relations,
        )  # fmt: skip
        if self.student != "same":
            student.module = self._built(student, candidate, context.seed)
        student.learn(Plan(epochs=self.epochs, learning_rate=self.learning_rate, seed=context.seed))
        return candidate.then(self.step(), student.export(context.folder), adds=self.adds, lossless=False, notes=student.notes)

    def _built(self, student: Student, candidate: Candidate, seed: int) -> fx.GraphModule:
        example = student.example()
        if self.student == "own":
            return nets.lifted(call(self.source[0], Path.cwd(), field=f"{self.name}, option source", what="a torch.nn.Module"), example)
        architecture = nets.described(self.student, width=self.width, depth=self.depth, shape=tuple(example[0].shape[1:]))
        student.notes.append(f"built {architecture.text}")
        if isinstance(architecture, Transformer):
            tables = texts.tables(student.module, candidate.signature, student.batches.inputs)
            student.notes += [f"the original's table of {name} was not found: it has the {t.rows:,} rows that data.train needs"
                              for name, t in tables.items() if t.weights is None]  # fmt: skip
            return texts.build(architecture, candidate.signature, tables, example, seed=seed)
        shape = candidate.signature.outputs[0].shape
        if len(shape) != 2 or shape[1] is None:
            raise NotPossibleHere(f"technique {self.name}", "builds networks with an output [n, numbers] only", got=shape)
        return nets.build(architecture, example, shape[1], seed=seed)
