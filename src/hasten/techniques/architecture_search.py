"""A network of its own, searched for among many small ones under a price in measured time, and taught by the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ..core.candidate import Candidate, Floor
from ..core.seams import Context, Forecast, Profile, Technique, option
from ..core.widths import Site, WidthTable
from ..measure.silence import silence
from ..train.cut import find_sites
from ..train.halving import SAMPLERS, Exam, Ladder, Proposal, Search
from ..train.loop import Plan
from ..train.space import Space
from ..train.student import Student, cannot_train

_SMALL_SHARE = 0.4  # of an epoch's time, for networks several times smaller than the teacher, which is asked once: a guess
_TABLE_SECONDS = 90.0  # to time the layers that may be built


@dataclass(frozen=True, kw_only=True)
class ArchitectureSearch(Technique):
    """Stages of plain, residual, inverted and separable blocks (rows of numbers: hidden layers), whose kinds, widths, depths, kernels and
    resolution Optuna proposes (NSGA-II: Deb et al. 2002, doi:10.1109/4235.996017) by price and loss. The price is the sum of its layers'
    times, as measured for every width in the runtime that was fastest. The loss is that of a short training with the original as teacher,
    on the calibrate split; the better third goes on for three times as long, until one is left (successive halving: Jamieson & Talwalkar
    2016, arXiv:1502.07943), which is trained to the end. All that was tried is in the evidence.
    """

    name: ClassVar[str] = "architecture-search"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    prices: ClassVar[bool] = True
    forbids: ClassVar[frozenset[str]] = frozenset({"distilled"})
    adds: ClassVar[frozenset[str]] = frozenset({"distilled"})
    packages: ClassVar[tuple[str, ...]] = ("torch", "optuna")

    speed: float = option(4.0, "Times faster than the original, by the times of their layers.", choices=(4.0,), low=1.0)
    trials: int = option(27, "Networks that are trained for a little.", choices=(27,), low=1, high=1000)
    samples: int = option(16384, "Samples that each of them sees; those that are left see three times as many, and again.", low=1)
    epochs: int = option(10, "Passes over the train split of the one that is left, after that.", choices=(10,), low=0)
    widest: int = option(96, "Channels of a stage, or numbers of a hidden layer, at most.", choices=(96,), low=8, high=1024)
    squeeze: bool = option(
        False, "Whether blocks may be squeezed and excited (Hu et al. 2018, arXiv:1709.01507); the table tells their price roughly."
    )
    sampler: str = option("nsga2", "Who proposes: nsga2, tpe or random.", choices=("nsga2",), allowed=SAMPLERS)
    learning_rate: float = option(3e-3, "At its highest.", low=0.0)
    temperature: float = option(3.0, "Softens both distributions.", low=1.0)
    alpha: float = option(0.7, "The teacher's share of the loss; the labels have the rest.", low=0.0, high=1.0)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if candidate is not None:
            inputs, outputs = candidate.signature.inputs, candidate.signature.outputs
            if len(candidate.lineage) > 1:
                return "it would throw away what was done before: it starts from the original"
            if len(inputs) != 1 or len(outputs) != 1 or len(outputs[0].shape) != 2 or outputs[0].shape[1] is None:
                return "a network is built for models with one input and one output [n, numbers] only"
            if not inputs[0].dtype.startswith("float") or None in inputs[0].shape[1:] or len(inputs[0].shape) not in (2, 4):
                return "a network is built for pictures or rows of numbers of one size only"
        return cannot_train(profile, "torch", "optuna")

    def expects(self, profile: Profile) -> Forecast:
        ladder, epoch = self._ladder, max(1, profile.num_train)
        trained = profile.training_seconds(self.epochs, _SMALL_SHARE)
        tried = ladder.all_samples / epoch * _SMALL_SHARE * profile.epoch_seconds
        asked = ladder.seen(len(ladder.survivors()) - 1) / epoch * profile.teacher_seconds  # all of them learn from the same samples
        return Forecast(  # what the table says of speed is within 10 % of what is measured
            speedup=self.speed, seconds=_TABLE_SECONDS + trained + tried + asked, smaller=self.speed, risk=1 - 1 / self.speed
        )  # fmt: skip

    def layers(self, original: Candidate) -> tuple[Site, ...]:
        return self._space(original).places()

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        student = Student.taught_in(context, candidate, alpha=self.alpha, temperature=self.temperature)
        full = _price(student)
        exam = Exam(student, [context.calibration_arrays()[spec.name] for spec in candidate.signature.inputs])
        search = Search(student, self._space(candidate), exam, self._ladder, most_seconds=full / self.speed, seed=context.seed)
        with silence():  # Optuna logs that it began
            best = search.run()
        student.module = search.climbed(best, len(best.scores) - 1)
        student.learn(Plan(epochs=self.epochs, learning_rate=self.learning_rate, seed=context.seed))
        notes, tried = [_sentence(search.proposals, best, full), *student.notes], [_line(one, full) for one in search.proposals]
        path = student.export(context.folder)
        return candidate.then(self.step(), path, adds=self.adds, lossless=False, notes=notes, tried=tried)

    @property
    def _ladder(self) -> Ladder:
        return Ladder(trials=self.trials, samples=self.samples, sampler=self.sampler, learning_rate=self.learning_rate)

    def _space(self, original: Candidate) -> Space:
        """What may be built in its place; what it takes and gives was looked at by `fits`."""
        given, wanted = original.signature.inputs[0].shape[1:], original.signature.outputs[0].shape[1]
        return Space(shape=tuple(n or 1 for n in given), num_out=wanted or 1, widest=self.widest, squeeze=self.squeeze)


def _price(student: Student) -> float:
    """Seconds of the original's layers by the table, or what a slow kernel would take for their multiply-adds."""
    table = student.widths() or WidthTable(curves={})
    return table.total(find_sites(student.module, student.example()).values())


def _sentence(proposals: Sequence[Proposal], best: Proposal, full: float) -> str:
    return (
        f"{len(proposals)} networks were tried on {len(best.scores)} rungs; left is {best.architecture.text}: {full / best.seconds:.1f} "
        f"times faster than the original by the times of their layers, loss {best.scores[-1]:.3g}."
    )


def _line(one: Proposal, full: float) -> dict[str, Any]:
    """Of the evidence."""
    return {
        "number": one.number, "network": one.architecture.text, "description": asdict(one.architecture), "seconds": one.seconds,
        "speed": full / one.seconds, "losses": one.scores,
    }  # fmt: skip
