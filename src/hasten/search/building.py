"""Candidates are made: what applies to what, what lossless techniques make of a model, and what becomes of a failure."""

from __future__ import annotations

from ..core.candidate import Candidate, Floor
from ..core.errors import DiskFull, HastenError, NotPossibleHere
from ..core.registry import find
from ..core.seams import Profile, Runtime, Technique
from ..core.trial import Fate, Trial
from .space import Space
from .study import Study
from .workshop import Workshop


def right_runtime(floor: Floor) -> Runtime:
    """The runtime that defines what a model on `floor` computes. Raises NotPossibleHere where it is not installed."""
    for kind in find(Runtime).values():
        if kind.defines_right and kind.floor is floor:
            return kind()
    raise NotPossibleHere("runtime", f"must be there to run the original on the {floor} floor")


class Builder:
    """Makes candidates in the workshop. start: the user's own program."""

    def __init__(self, shop: Workshop, study: Study, space: Space, start: Trial) -> None:
        self.shop, self.study, self.space, self.start = shop, study, space, start

    def closure(self, original: Candidate, profile: Profile) -> list[Candidate]:
        """The original and all that lossless techniques make of it, each built once, most worked on last."""
        found, frontier = [original], [original]
        while frontier:
            candidate = frontier.pop(0)
            for kind in self.space.techniques:
                for technique in [v for v in kind.space(profile) if v.lossless]:
                    made = self.build(technique, candidate) if _applies(technique, candidate, profile) else None
                    if made is not None and made.id not in {c.id for c in found}:
                        found.append(made)
                        frontier.append(made)
        return found

    def build(self, technique: Technique, candidate: Candidate) -> Candidate | None:
        """The candidate after a technique; None where that failed, which the study knows then. Raises DiskFull, and what ails a model that
        cannot leave its floor."""
        if technique.lossless:
            self.study.decide(technique.step().text, "changes nothing but time")
        try:
            made = self.shop.apply(technique, candidate)
            if told := made.notes[len(candidate.notes) :]:
                self.study.learn("; ".join(told), made.tried)
            return made
        except DiskFull:
            raise
        except HastenError as error:
            if candidate.id == self.start.candidate.id and technique.lossless and technique.floor is Floor.MODULE:
                raise  # a model that cannot leave its floor is the user's to know, at once
            self.study.learn(f"failed: {error}")
            failed = candidate.then(technique.step(), candidate.path, adds=technique.adds, lossless=technique.lossless)
            self.study.keep(Trial(candidate=failed, runtime=right_runtime(Floor.GRAPH), fate=Fate.FAILED, reason=str(error)))
            return None


def _applies(technique: Technique, candidate: Candidate, profile: Profile) -> bool:
    return (
        technique.floor is candidate.floor
        and technique.needs <= candidate.facts
        and not technique.forbids & candidate.facts
        and technique.fits(candidate, profile) is None
    )
