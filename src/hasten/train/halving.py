"""Architecture search: networks are proposed under a price and trained for a little, the better third of them for three times as long, and
so on until one is left.

The price is a table's, so that a proposal costs nothing before it is trained. A network goes on from rung to rung with the weights that it
has (successive halving: Jamieson & Talwalkar 2016, arXiv:1502.07943), each rung a training of its own with a schedule of its own (restarts:
Loshchilov & Hutter 2017, arXiv:1608.03983). After a kill all is asked again in the same order, and what was trained is read from the disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import NotPossibleHere
from ..core.need import need
from ..core.widths import WidthTable
from . import nets
from .batches import Batch, Batches
from .lift import flat_outputs
from .loop import Plan
from .nets import Architecture
from .served import Served
from .space import Space
from .student import Student

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

SAMPLERS = ("nsga2", "tpe", "random")
_FACTOR = 3  # of a rung's networks one goes on, for so many times as long
_ASKED = 50  # proposals for each one that is trained: too dear ones and repeated ones cost nothing
_EXAM_SAMPLES, _EXAM_BATCH = 2048, 256


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """How much is tried. trials: networks on the first rung; samples: that each of them sees there; sampler: one of SAMPLERS;
    learning_rate: of every rung, at its highest."""

    trials: int
    samples: int
    sampler: str = "nsga2"
    learning_rate: float = 3e-3

    def survivors(self) -> list[int]:
        """Networks on each rung; the best of the last is the answer."""
        counts = [self.trials]
        while counts[-1] >= 2 * _FACTOR:
            counts.append(counts[-1] // _FACTOR)
        return counts

    def seen(self, rung: int) -> int:
        """Samples that a network has seen when `rung` ends."""
        return self.samples * int(_FACTOR**rung)

    @property
    def all_samples(self) -> int:
        """That all networks see on all rungs."""
        counts = self.survivors()
        return sum(count * (self.seen(rung) - (self.seen(rung - 1) if rung else 0)) for rung, count in enumerate(counts))


@dataclass(kw_only=True)
class Proposal:
    """A network that is tried. number: in order of proposal; seconds: its price; scores: after each rung, the lower the better."""

    number: int
    architecture: Architecture
    seconds: float
    scores: list[float] = field(default_factory=list)


class Exam:
    """What a student answers to samples that it is not taught, against what its teacher answers: the loss, the lower the better."""

    def __init__(self, student: Student, samples: Sequence[np.ndarray]) -> None:
        """samples: of each input [N, ...], in the order of the signature."""
        import torch

        count = min(_EXAM_SAMPLES, len(samples[0]))
        starts = range(0, count, _EXAM_BATCH)
        self.loss = replace(student.distillation, alpha=1.0)
        self.parts = [tuple(torch.from_numpy(np.array(v[at : min(at + _EXAM_BATCH, count)])) for v in samples) for at in starts]
        self.wanted = self._answers(student.teacher.module)

    def __call__(self, module: nn.Module) -> float:
        return float(self.loss(self._answers(module.eval()), self.wanted, None))

    def _answers(self, module: nn.Module | Served) -> torch.Tensor:
        import torch

        with torch.no_grad():
            return torch.cat([flat_outputs(module(*part))[0].float() for part in self.parts])


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of the endless row of batches, as if it was an epoch. first, steps: of the row, where it begins and how long it is."""

    batches: Batches
    first: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of the stretch, from batch `start` on; it is one epoch long."""
        at, end = self.first + start, self.first + self.steps
        while at < end:
            epoch, place = divmod(at, len(self.batches))
            for batch in self.batches.epoch(epoch, place):
                if at == end:
                    return
                yield batch
                at += 1


class Search:
    """One search. student: who is taught, and by whom; exam: tells which network is better; most_seconds: the highest price."""

    def __init__(self, student: Student, space: Space, exam: Exam, ladder: Ladder, *, most_seconds: float, seed: int) -> None:
        self.student, self.space, self.exam, self.ladder, self.seed = student, space, exam, ladder, seed
        self.table, self.most_seconds = student.widths() or WidthTable(curves={}), most_seconds
        self.example = student.example()
        self.proposals: list[Proposal] = []

    def run(self) -> Proposal:
        """Propose, train and let survive. Returns the best; all are in `proposals`. Raises NotPossibleHere where none is cheap enough."""
        self._propose()
        left = self.proposals
        for rung, count in enumerate(self.ladder.survivors()):
            left = left[:count]
            for proposal in left:
                if len(proposal.scores) <= rung:
                    proposal.scores.append(self.exam(self.climbed(proposal, rung)))
            left = sorted(left, key=lambda p: (p.scores[-1], p.seconds))
        return left[0]

    def climbed(self, proposal: Proposal, rung: int) -> fx.GraphModule:
        """The network as it is after `rung`, trained where it was not."""
        student = replace(self.student, module=nets.build(proposal.architecture, self.example, self.space.num_out, seed=self.seed))
        for below in range(rung + 1):
            first, last = (
                math.ceil(n / student.batches.size) for n in (self.ladder.seen(below - 1) if below else 0, self.ladder.seen(below))
            )
            stretch = Stretch(batches=student.batches, first=first, steps=max(1, last - first))
            plan = Plan(epochs=1, learning_rate=self.ladder.learning_rate, seed=self.seed)
            student.learn_stage(plan, 10 * proposal.number + below, stretch)
        return student.module

    def _propose(self) -> None:
        """The first rung: Optuna proposes by what former proposals cost and scored."""
        optuna = need("optuna", why="to search architectures")
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=self._sampler(optuna))
        for answers in self.space.first():
            study.enqueue_trial(answers)
        known: dict[str, Proposal] = {}
        for _ in range(_ASKED * self.ladder.trials):
            if len(self.proposals) == self.ladder.trials:
                return
            trial = study.ask()
            fitted = self.space.fitted(self.space.propose(trial), self.table, self.most_seconds)
            if fitted is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            proposal = known.get(fitted.text) or self._tried(fitted)
            known[fitted.text] = proposal
            study.tell(trial, [proposal.seconds, proposal.scores[0]])
        if not self.proposals:
            where, got = "technique architecture-search", f"{1e6 * self.most_seconds:.1f} us"
            raise NotPossibleHere(where, "must be able to propose a network at this price", got=got, hint="Lower its option speed")

    def _tried(self, architecture: Architecture) -> Proposal:
        seconds = self.table.total(self.space.sites(architecture))
        proposal = Proposal(number=len(self.proposals), architecture=architecture, seconds=seconds)
        proposal.scores.append(self.exam(self.climbed(proposal, 0)))
        self.proposals.append(proposal)
        return proposal

    def _sampler(self, optuna: Any) -> Any:
        few = max(4, self.ladder.trials // _FACTOR)
        if self.ladder.sampler == "tpe":
            return optuna.samplers.TPESampler(n_startup_trials=few, seed=self.seed)
        if self.ladder.sampler == "random":
            return optuna.samplers.RandomSampler(seed=self.seed)
        return optuna.samplers.NSGAIISampler(population_size=few, seed=self.seed)
