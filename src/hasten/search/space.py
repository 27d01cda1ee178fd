"""What could be tried here: each technique and runtime, `ok` or one sentence why not."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.candidate import Floor
from ..core.errors import NotPossibleHere
from ..core.job import Job
from ..core.registry import find, get
from ..core.seams import Profile, Runtime, Target, Technique


@dataclass(frozen=True, kw_only=True)
class PlanLine:
    """One technique or runtime. verdict: `ok`, or one sentence why not; note: what is expected of it."""

    kind: str
    name: str
    verdict: str
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.verdict == "ok"


@dataclass(frozen=True, kw_only=True)
class Space:
    """What the search may combine, and the sentences about the rest."""

    techniques: tuple[type[Technique], ...]
    runtimes: tuple[type[Runtime], ...]
    lines: tuple[PlanLine, ...]


def make_space(job: Job, target: Target, profile: Profile) -> Space:
    """The techniques and runtimes that the job allows and this machine has. Raises JobError, NotPossibleHere."""
    techniques: list[type[Technique]] = []
    runtimes: list[type[Runtime]] = []
    lines: list[PlanLine] = []
    for runtime in _runtimes(job.target.runtimes):
        why_not = runtime().fits(None, target)
        lines.append(PlanLine(kind="runtime", name=runtime.name, verdict=why_not or "ok"))
        if why_not is None:
            runtimes.append(runtime)
    for technique in _techniques(job.search.techniques):
        first = next(technique.space(profile), None)
        why_not = "no variant of it fits this machine" if first is None else first.fits(None, profile)
        forecast = first.expects(profile) if first is not None and why_not is None else None
        note = "" if forecast is None or technique.lossless else f"about {forecast.speedup:.1f}x over lossless expected"
        lines.append(PlanLine(kind="technique", name=technique.name, verdict=why_not or "ok", note=note))
        if why_not is None:
            techniques.append(technique)
    if not any(r.floor is Floor.GRAPH for r in runtimes):
        asked = "; ".join(
            f"{line.name}: {'it runs PyTorch modules' if line.ok else line.verdict}" for line in lines if line.kind == "runtime"
        )
        raise NotPossibleHere(
            "target.runtimes", f"must hold one that runs ONNX graphs and is installed ({asked or 'none was named'})",
            hint="See `hasten list runtimes`",
        )  # fmt: skip
    return Space(techniques=tuple(techniques), runtimes=tuple(runtimes), lines=tuple(lines))


def _runtimes(names: tuple[str, ...] | None) -> list[type[Runtime]]:
    return list(find(Runtime).values()) if names is None else [get(Runtime, name, field="target.runtimes") for name in names]


def _techniques(names: tuple[str, ...] | None) -> list[type[Technique]]:
    known = list(find(Technique).values())
    if names is None:
        return known
    chosen = [get(Technique, name, field="search.techniques") for name in names]
    # Lossless steps such as the export are how a model gets anywhere: naming techniques does not forbid them.
    return [*chosen, *(kind for kind in known if kind.lossless and kind not in chosen)]
