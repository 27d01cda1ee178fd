"""Whole channels, heads and neurons that matter least are cut out, and the rest learns to do without them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from ..core.candidate import Candidate, Floor
from ..core.errors import NotPossibleHere
from ..core.seams import Context, Forecast, Profile, Technique, option
from ..train.cut import Cut, Goal, Price, find_groups, find_sites
from ..train.depth import leave_out
from ..train.importance import KINDS, importance, scales
from ..train.loop import Plan
from ..train.shapes import fixed, heads
from ..train.student import Student, cannot_train
from ._graph import is_transformer

_SHARES = (0.3, 0.5, 0.7, 0.8, 0.9)
_IN_DEPTH = 0.7  # of a transformer's cut: MiniLM without six of its twelve blocks and 70 % of its parameters


@dataclass(frozen=True, kw_only=True)
class StructuredPruning(Technique):
    """A smaller dense model, faster in every runtime. What hangs together through additions, normalisations and concatenations is found
    by Torch-Pruning (Fang et al. 2023, arXiv:2301.12900) and cut together; layers compete for their channels by what a cut saves of
    parameters and of time, as measured for every width in the runtime that was fastest. Then it is trained with the original as its
    teacher (Hinton et al. 2015, arXiv:1503.02531).
    """

    name: ClassVar[str] = "structured-pruning"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    prices: ClassVar[bool] = True
    forbids: ClassVar[frozenset[str]] = frozenset({"channels-pruned", "sparse-weights"})  # training would fill the zeros
    adds: ClassVar[frozenset[str]] = frozenset({"channels-pruned"})
    packages: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")

    share: float = option(0.5, "Share of the parameters that is cut, at the least.", choices=_SHARES, low=0.01, high=0.98)
    time_share: float = option(0.0, "Share of the layers' time that is cut, at the least, as measured for every width.", low=0.0, high=0.98)
    blocks: int = option(
        0, "Residual blocks that are left out first (they count towards the share): attention and MLP of an encoder's layer are one each.",
        choices=(0,), low=0,
    )  # fmt: skip
    importance: str = option(
        "taylor", "What matters: taylor (weight times gradient, Molchanov et al. 2019, arXiv:1906.10771), fisher (its square), magnitude, "
        "magnitude-l1, bn-scale (Liu et al. 2017, arXiv:1708.06519) or activation.", choices=("taylor",), allowed=KINDS,
    )  # fmt: skip
    rounds: int = option(1, "Cuts, with training between them, until the share is reached.", choices=(1,), low=1)
    round_to: int = option(8, "Widths are multiples of it; which of them pay is measured.", choices=(8,), low=1)
    sparsify: float = option(
        0.0, "How hard the scales of normalisations are pushed to zero before the first cut, for a quarter of the epochs (L1 penalty on "
        "each, Liu et al. 2017, arXiv:1708.06519; 1e-4 is theirs).", low=0.0,
    )  # fmt: skip
    epochs: int = option(10, "Passes over the train split.", choices=(10,), low=0)
    learning_rate: float = option(1e-3, "At its highest.", low=0.0)
    alpha: float = option(0.7, "The teacher's share of the loss; the labels have the rest.", low=0.0, high=1.0)

    @classmethod
    def space(cls, profile: Profile) -> Iterator[Self]:
        """The middle share first; of the time too, unless only size matters. Transformers lose most of it in depth."""
        timed = profile.objective not in ("size", "memory")
        # A transformer normalises once a block and once at an end. What an encoder loses in depth it loses in every operator.
        blocks = max(0, profile.operators.get("LayerNormalization", 0) - 1) if is_transformer(profile.operators) else 0
        found = [replace(one, blocks=round(_IN_DEPTH * one.share * blocks)) for one in super().space(profile)]
        found = [replace(one, time_share=one.share) if timed else one for one in found]
        return iter(sorted(found, key=lambda one: abs(one.share - 0.5)))

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return cannot_train(profile, "torch", "torch_pruning")

    def expects(self, profile: Profile) -> Forecast:
        # Half the MACs of a ResNet-50 give 1.35x and not 2x (Torch-Pruning's own figures): time falls more slowly than operations.
        speedup = max((1 - self.share) ** -0.6, 0.9 / (1 - self.time_share))
        # Parameters go with the square of widths, time with less: 30, 45, 50, 74 and 85 % of it took 49, 64, 66, 86 and 94 % of them.
        gone = max(self.share, 1 - (1 - self.time_share) ** 1.7)
        seconds = profile.training_seconds(self.epochs, (1 - self.share) ** 0.6)  # of what is left
        return Forecast(speedup=speedup, seconds=seconds, smaller=1 / (1 - gone), risk=gone)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        student = Student.taught_in(context, candidate, alpha=self.alpha)
        full = planned(student).price()
        if gone := leave_out(student, self.blocks):
            student.notes.append(f"left out {len(gone)} residual blocks: {', '.join(gone)}")
        between = self.epochs // (2 * self.rounds)  # half of the time is for the cuts, the other half for the last of them
        before = self.epochs // 4 if self.sparsify else 0
        plan = Plan(epochs=self.epochs - (self.rounds - 1) * between - before, learning_rate=self.learning_rate, seed=context.seed)
        if before:
            self._sparsify(student, replace(plan, epochs=before))
        for number in range(1, self.rounds):
            self._cut(student, number / self.rounds, full)
            student.learn_stage(replace(plan, epochs=between), number)
        self._cut(student, 1.0, full)
        student.learn(plan)
        return candidate.then(self.step(), student.export(context.folder), adds=self.adds, lossless=False, notes=student.notes)

    def _sparsify(self, student: Student, plan: Plan) -> None:
        if not scales(student.module):
            hint = "Leave it at 0: there are no batch normalisations"
            raise NotPossibleHere(f"technique {self.name}, option sparsify", "must have scales to push", got=self.sparsify, hint=hint)
        student.sparsity = self.sparsify
        student.learn_stage(plan, 0)
        student.sparsity = 0.0

    def _cut(self, student: Student, progress: float, full: Price) -> None:
        """Cut the student's module in place. progress: of the way, 0..1. Raises NotPossibleHere where not half of the parameters can go."""
        cut, share = planned(student, self.importance), progress * self.share
        goal = Goal(parameters=share, seconds=progress * self.time_share, round_to=self.round_to)
        gone = cut.plan(goal, full).parameters
        if gone < 0.5 * share:
            hint = "Its widths may be fixed by reshapes, or round_to may be too large for them"
            raise NotPossibleHere(
                f"technique {self.name}", f"must be able to cut {share:.0%} of the parameters", got=f"{gone:.0%}", hint=hint
            )
        student.notes += cut.told(goal, full)
        cut.make()
        student.module.zero_grad(set_to_none=True)


def planned(student: Student, kind: str = "magnitude") -> Cut:
    """The student's module as it is, ready to be cut."""
    module, example = student.module, student.example()
    groups = find_groups(module, example, importance(kind, student), fixed(module), heads(module))
    return Cut(find_sites(module, example), groups, student.widths())
