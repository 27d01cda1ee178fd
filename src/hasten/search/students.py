"""What training made: models to work on further, and training as the rescue of programs that are fast and not right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..core.candidate import Candidate
from ..core.seams import Profile, Technique
from ..core.trial import Trial
from .planner import Step, variants

_RESCUED = 0.6  # chance that training wins back what was lost, before any was tried
_HEALED = 0.4  # the same of more training for what was trained and lost up to twice the limit: less for what lost more


@dataclass(frozen=True, kw_only=True)
class Base:
    """A model that techniques can be applied to: on the module floor, and as the graph that lossless steps make of it. log_factor: how
    much faster its graph is than the original's in the same runtime, as a logarithm; right: how likely it is to keep quality itself;
    passes: the share of the original's time that a pass of its training takes; answered: epochs of its own training, in which the teacher
    was asked."""

    module: Candidate
    graph: Candidate
    log_factor: float = 0.0
    right: float = 1.0
    passes: float = 1.0
    answered: int = 0

    @property
    def models(self) -> tuple[Candidate, ...]:
        """What techniques can be applied to, each once: a model that came as a graph is both."""
        return (self.module,) if self.module.id == self.graph.id else (self.module, self.graph)

    def profile(self, profile: Profile) -> Profile:
        """What training on from here takes."""
        return replace(profile, epoch_seconds=self.passes * profile.epoch_seconds, answered_epochs=self.answered)


class Students:
    """The bases of a search: the original, and trained models that keep quality."""

    def __init__(self, original: Base) -> None:
        self.bases: dict[str, Base] = {"": original}  # by the key that named its building
        self._modules: dict[str, Candidate] = {}

    def built(self, key: str, module: Candidate) -> None:
        """Training made `module` as what the key names."""
        self._modules[key] = module

    def note(self, step: Step, trial: Trial, gain: float | None, right: float | None, slower: float) -> None:
        """What became of a step. A trained model that may be right is worth training on, and quantising.

        gain: over the reference; slower: how much slower the original's graph is than the reference in that runtime.
        """
        module = self._modules.get(step.build_key) if step.technique is not None else None
        if module is not None and step.then is None and right and gain and step.build_key not in self.bases:
            faster = gain * slower
            self.bases[step.build_key] = Base(
                module=module, graph=trial.candidate, log_factor=math.log(faster), right=right, passes=_passes(faster),
                answered=_epochs(step),
            )  # fmt: skip

    def rescues(
        self, kinds: Sequence[type[Technique]], unsure: Sequence[tuple[Trial, Step]], profile: Profile, limit: float
    ) -> Iterator[Step]:
        """For each program that is fast and not likely right: what prepares a model for what was done to it, and then the same again; and
        for a trained model, more training.

        kinds: techniques that rescue or heal; unsure: those programs, and the steps that they came by; limit: what a program may lose.
        """
        bases = {base.graph.id: base for base in self.bases.values()}
        for trial, step in unsure:
            yield from self._healed([k for k in kinds if k.heals & trial.candidate.facts], trial, step, profile, limit)
            if step.technique is None or step.then is not None or not trial.speedup or step.candidate.id not in bases:
                continue
            base, helpful = bases[step.candidate.id], [k for k in kinds if k.rescues & trial.candidate.facts]
            own = base.profile(profile)
            for model in base.models:
                for technique in variants(helpful, own, model):
                    yield Step(
                        candidate=model, technique=technique, then=step.technique, runtime=step.runtime, profile=own,
                        right=min(_RESCUED, max(base.right, _HEALED)),  # what a student lost already must be won back too
                        known_log_speedup=math.log(trial.speedup.value), reason=f"{trial.text} is fast and not sure to be right",
                    )  # fmt: skip

    def _healed(self, kinds: Sequence[type[Technique]], trial: Trial, step: Step, profile: Profile, limit: float) -> Iterator[Step]:
        """More training for the model that a step trained."""
        module = self._modules.get(step.build_key) if step.technique is not None and step.then is None else None
        if module is None or not trial.speedup:
            return
        lost = trial.drop.value if trial.drop is not None else limit
        right = _HEALED * min(1.0, 2 * limit / max(lost, 1e-9))
        assert step.technique is not None
        faster = step.technique.expects(profile).speedup  # as forecast: the same for all its programs
        own = Base(module=module, graph=module, passes=_passes(faster), answered=_epochs(step)).profile(profile)
        for technique in variants(kinds, own, module):
            yield Step(
                candidate=module, technique=technique, runtime=step.runtime, profile=own, right=right,
                known_log_speedup=math.log(trial.speedup.value), reason=f"{trial.text} is fast and may need longer training",
            )  # fmt: skip


def _passes(faster: float) -> float:
    """The share of the original's time that a training pass takes of what is so many times faster: 8 times gave a fifth."""
    return min(1.0, math.exp(-0.75 * math.log(faster)))


def _epochs(step: Step) -> int:
    return int(getattr(step.technique, "epochs", 0))
