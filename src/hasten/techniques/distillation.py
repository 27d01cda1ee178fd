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
from ..train import nets
from ..train.loop import Plan
from ..train.student import Student, cannot_train

if TYPE_CHECKING:
    from torch import fx

_GENTLE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Distillation(Technique):
    """Knowledge distillation (Hinton, Vinyals & Dean 2015, arXiv:1503.02531). The student is taught the original's softened scores and the
    labels, and where `features` says so also what the original knows before its last layer, through a learnt map (Romero et al. 2015,
    arXiv:1412.6550). What the original answers is computed once and kept on disk for every student of the same seed.
    """

    name: ClassVar[str] = "distillation"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    heals: ClassVar[frozenset[str]] = frozenset({"channels-pruned", "low-rank"})
    forbids: ClassVar[frozenset[str]] = frozenset({"distilled", "sparse-weights"})  # training would fill the zeros
    adds: ClassVar[frozenset[str]] = frozenset({"distilled"})
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    student: str = option("resnet", "What learns: resnet, mobilenet or mlp (built to the task's input), same (the model as it is) or own.",
                          choices=("resnet", "same"), allowed=(*nets.KINDS, "same", "own"))  # fmt: skip
    source: tuple[str, ...] = option(
        (), "Where student is own: one file.py:function that returns a torch.nn.Module, from the folder one is in."
    )
    width: int = option(16, "Channels of the built network's first stage.", choices=(16,), low=1)
    depth: int = option(1, "Blocks of each of its stages.", choices=(1,), low=1)
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
        """What was trained before is trained on gently."""
        return (replace(one, learning_rate=_GENTLE) if one.student == "same" else one for one in super().space(profile))

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if (self.student == "own") != (len(self.source) == 1):
            return "a student of one's own needs its source, and only such a student"
        if candidate is not None and self.student == "same" and not self.heals & candidate.facts:
            return "nothing was taken away that it could teach again"
        if candidate is not None and self.student in nets.KINDS:
            if self.heals & candidate.facts:
                return "it would throw away what was cut and trained: it starts from the original"
            if len(candidate.signature.outputs) != 1 or len(candidate.signature.inputs) != 1:
                return "a network is built for models with one input and one output only"
            if self.student != "mlp" and len(candidate.signature.inputs[0].shape) != 4:
                return "a network is built for pictures only"
        return cannot_train(profile, "torch")

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
        shape = candidate.signature.outputs[0].shape
        if len(shape) != 2 or shape[1] is None:
            raise NotPossibleHere(f"technique {self.name}", "builds networks with an output [n, numbers] only", got=shape)
        architecture = nets.described(self.student, width=self.width, depth=self.depth)
        return nets.build(architecture, example, shape[1], seed=seed)
