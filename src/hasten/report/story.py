"""The evidence of a run, sorted by kind, and what it says in words. No HTML, no terminal, no plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import words

Record = Mapping[str, Any]

BADGES = {
    "passed": "Certified",
    "reference": "Already at its best",
    "undecided": "Undecided",
    "failed": "Limits not met",
    "unfinished": "Search not ended",
}
"""A verdict in the fewest words."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """A bundle's manifest and evidence (bundle/layout.py says what each record holds); absent records are empty."""

    manifest: Record
    run: Record
    answer: Record
    trials: tuple[Record, ...]
    measurements: tuple[Record, ...]
    decisions: tuple[Record, ...]
    disagreements: tuple[Record, ...]
    outcomes: Record

    @classmethod
    def of(cls, manifest: Record, evidence: Sequence[Record]) -> Story:
        def kind(name: str) -> tuple[Record, ...]:
            return tuple(record for record in evidence if record.get("kind") == name)

        def last(name: str) -> Record:
            return next(reversed(kind(name)), {})

        answer = manifest.get("answer") or last("answer")
        order = {"answer": 0, "reference": 1, "start": 2, "passed": 3, "promising": 4, "lost": 5, "failed": 6}
        trials = sorted(kind("trial"), key=lambda t: (order.get(t.get("fate", ""), 9), (t.get("latency") or {}).get("value") or 1e9))
        return cls(
            manifest=manifest,
            run=last("run"),
            answer=answer,
            trials=tuple(trials),
            measurements=kind("measurement"),
            decisions=kind("decision"),
            disagreements=kind("disagreement"),
            outcomes=last("outcomes"),
        )

    @property
    def name(self) -> str:
        return str(self.manifest.get("model_name") or self.run.get("model_name") or "The model")

    @property
    def metric(self) -> str:
        return str(self.run.get("metric") or "quality").replace("_", " ")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that were set."""
        limits = self.run.get("limits") or self.manifest.get("limits") or {}
        return {name: value for name, value in limits.items() if value is not None}

    @property
    def max_drop(self) -> float | None:
        return self.limits.get("max_drop")

    @property
    def marked(self) -> dict[str, Record]:
        """The trials that everything compares with: start, reference, answer. One trial may play several parts."""
        by_fate = {trial.get("fate"): trial for trial in reversed(self.trials)}
        chosen_id = (self.answer.get("answer") or {}).get("id")
        chosen = next((t for t in self.trials if t.get("id") == chosen_id), by_fate.get("answer"))
        if chosen is None and self.answer.get("verdict") == "reference":
            chosen = by_fate.get("reference") or by_fate.get("start")
        reference = by_fate.get("reference") or (chosen if self.answer.get("verdict") == "reference" else None)
        found = {"start": by_fate.get("start"), "reference": reference, "answer": chosen}
        return {part: trial for part, trial in found.items() if trial is not None}

    def parts(self, trial: Record) -> list[str]:
        """The parts that this trial plays."""
        return [part for part, marked in self.marked.items() if marked is trial]

    def final_rounds(self) -> dict[str, Record]:
        """The final race: trial id -> its latency measurement."""
        return {m["trial"]: m for m in self.measurements if m.get("metric") == "latency" and m.get("stage") == "final" and m.get("samples")}


def badge(answer: Record) -> str:
    """The verdict in the fewest words."""
    verdict = str(answer.get("verdict") or "")
    if verdict == "passed" and not answer.get("drop_points"):
        return "Lossless"
    return BADGES.get(verdict, verdict.capitalize() or "No verdict")


def headline(story: Story) -> str:
    """The answer in one sentence; **stars** mark what carries it."""
    return {"passed": _passed, "reference": _reference, "undecided": _undecided, "unfinished": _unfinished}.get(
        str(story.answer.get("verdict")), _failed
    )(story)


def figures(story: Story) -> list[tuple[str, str, str]]:
    """The numbers of the answer: (name, value, what it is compared with)."""
    answer, marked = story.answer, story.marked
    chosen: Record = answer.get("answer") or {}
    start = marked.get("start", {})
    speedup: Record = answer.get("speedup") or {}
    latency, over_start, over_lossless = (
        words.seconds(chosen.get("latency_seconds")),
        *(words.ratio(speedup.get(k)) for k in ("over_start", "over_lossless")),
    )
    rows = [
        ("Latency", latency.value, latency.range),
        ("Speed-up over start", over_start.value, over_start.range),
        ("Speed-up over lossless", over_lossless.value, over_lossless.range),
        (f"Drop of {story.metric}", words.points(answer.get("drop_points")).value, _drop_note(story)),
        ("Size", words.size(chosen.get("size_bytes")), _was(start.get("size_bytes"), chosen.get("size_bytes"))),
        ("Peak memory", words.size(chosen.get("peak_memory_bytes")), _was(start.get("peak_memory_bytes"), chosen.get("peak_memory_bytes"))),
        ("Energy of a call", words.joules(chosen.get("energy_joules")).value, energy_label(chosen.get("energy_joules"))),
    ]
    return [row for row in rows if row[1] != words.NONE]


def changes(story: Story) -> str:
    """How many samples changed sides between the start and the answer; empty where outcomes are not right or wrong."""
    start, answer = (story.outcomes.get(k) or [] for k in ("start", "answer"))
    if not start or len(start) != len(answer) or not {*start, *answer} <= {0, 1}:
        return ""
    worse = sum(a > b for a, b in zip(start, answer, strict=True))
    better = sum(a < b for a, b in zip(start, answer, strict=True))
    if story.run.get("labelled", True):
        return f"Of {words.count(len(start), 'sample')}, {worse:,} went from right to wrong and {better:,} from wrong to right."
    return f"Of {words.count(len(start), 'sample')}, {worse:,} are answered differently from the original."


def trial_name(trial: Record) -> str:
    """What was done: `static-int8 > onnxruntime(threads=1)`."""
    return str(trial.get("text") or " > ".join([*recipe(trial), runtime(trial)]))


def recipe(trial: Record) -> list[str]:
    """The steps without the runtime; none for the original."""
    return [str(step) for step in trial.get("recipe") or []]


def runtime(trial: Record) -> str:
    """`onnxruntime (threads 1)`."""
    knobs = ", ".join(f"{k} {v}" for k, v in (trial.get("knobs") or {}).items())
    return str(trial.get("runtime") or "?") + (f" ({knobs})" if knobs else "")


def setting(record: Record) -> str:
    """`2 threads, 1 sample a call`, of a run or of a measurement's method; what is not recorded is left out."""
    threads, batch = record.get("threads"), record.get("batch_size")
    parts = [words.count(threads, "thread") if threads else "", f"{words.count(batch, 'sample')} a call" if batch else ""]
    return ", ".join(part for part in parts if part)


def measured_how(story: Story) -> list[tuple[str, str]]:
    """How the numbers came about, in plain words: (topic, sentence)."""
    lines = [*_timing(story), *_quality(story)]
    if any(t.get("peak_memory_bytes") for t in story.trials):
        lines.append(
            ("Memory", "Peak resident memory of a process that only loads and runs the program, less the same process without it.")
        )
    lines.append(("Size", "The bytes that must ship to run the program."))
    if energy := story.run.get("energy"):
        said = {"measured": "Measured: ", "estimated": "Estimated, not measured: "}.get(str(energy.get("label")), "Unknown: ")
        lines.append(("Energy", f"{said}{energy.get('how')}."))
    return lines


def _timing(story: Story) -> list[tuple[str, str]]:
    final = list(story.final_rounds().values())
    if not final:
        return []
    method = final[0].get("method") or {}
    num_rounds = len(set(final[0].get("groups") or ())) or len(final[0]["samples"])
    blocks = int(method.get("blocks") or 1)
    runs = sum(len(m["samples"]) for m in final)
    lines = [
        (
            "Final race",
            f"{words.count(len(final), 'program')} ran in turn for {words.count(num_rounds, 'round')} in {words.count(blocks, 'block')} "
            f"of fresh processes, in random order within each round: {words.count(runs, 'timed call')}"
            f"{', ' * bool(setting(method))}{setting(method)}. Wall and CPU time of each call are kept.",
        )
    ]
    if warm := [w for m in final for w in (m.get("method") or {}).get("warm_up") or () if "seconds" in w]:
        longest = max(warm, key=lambda w: float(w["seconds"]))
        lines.append(
            (
                "Warm-up",
                "Each process ran until its fastest calls stopped improving by 2 %; the slowest one took "
                f"{words.seconds({'value': longest['seconds']}).value} and {words.count(int(longest.get('runs', 0)), 'call')}. "
                "None of it is counted.",
            )
        )
    lines.append(
        (
            "Statistics",
            "A latency is the median over the rounds' medians; its 95 % interval is that of order statistics, and no narrower "
            "than Student's over the sets of processes. "
            "Speed ratios are taken within each round, so that a slow minute hits both sides alike.",
        )
    )
    return lines


def _quality(story: Story) -> list[tuple[str, str]]:
    splits = story.run.get("num_samples") or {}
    against = "the labels" if story.run.get("labelled", True) else "the original model's own outputs"
    lines = []
    if splits:
        shares = [f"{amount:,} to {name}" for name, amount in splits.items()]
        lines.append(
            ("Data", f"Three sets without a common sample: {words.listed(shares)}. The last one was not looked at during the search.")
        )
    verdicts = [t["verdict"] for t in story.trials if t.get("verdict")]
    how = next((v["method"] for v in verdicts if v.get("method")), "")
    sentence = f"{story.metric.capitalize()} against {against}, compared sample by sample with the original."
    if how:
        sentence += f" Test: {how}."
    if verdicts and verdicts[0].get("alpha"):
        sentence += (
            f" One-sided error rate {verdicts[0]['alpha']:.2g} a candidate; {words.count(len(verdicts), 'candidate')} came this far."
        )
    return [*lines, ("Quality", sentence)]


def _passed(story: Story) -> str:
    drop = story.answer.get("drop_points")
    certified = words.count(int(drop["n"]), "sample") if drop and drop.get("n") else ""
    if not drop:
        return f"{_speed(story)}{_smaller(story)}, with the same outputs up to rounding."
    proof = f": certified on {certified} that the search never saw" if certified else ""
    return f"{_speed(story)}{_smaller(story)}, {_losing(story, drop)}{proof}."


def _reference(story: Story) -> str:
    start, reference = story.marked.get("start"), story.marked.get("reference")
    if start is not None and start is reference:
        return f"**Nothing beats {story.name} as it was** beyond the noise, so it is the answer: nothing was changed."
    over_start: Record = (story.answer.get("speedup") or {}).get("over_start") or {}
    gain = f": **{words.times(over_start)}** than the model was" if (over_start.get("low") or 0) > 1 else ""
    return (
        f"**Nothing beats the fastest lossless program of {story.name}** beyond the noise, "
        f"so that is the answer{gain}, with the same outputs up to rounding."
    )


def _undecided(story: Story) -> str:
    drop = story.answer.get("drop_points")
    verdict = story.marked.get("answer", {}).get("verdict") or {}
    needed = verdict.get("needed_samples")
    have = f"{words.count(int(drop['n']), 'sample')} cannot decide" if drop and drop.get("n") else "the samples cannot decide"
    more = f"; about {needed:,} would" if needed else ""
    losing = f", {_losing(story, drop)}" if drop and drop.get("value") is not None else ""
    return f"{_speed(story)}{losing}, but **{have}** whether it keeps the limit{more}."


def _unfinished(story: Story) -> str:
    over_start: Record = (story.answer.get("speedup") or {}).get("over_start") or {}
    gain = f", **{words.times(over_start)}** than the model was" if (over_start.get("low") or 0) > 1 else ""
    return f"**The search has not ended**: this is the fastest lossless program of {story.name} so far{gain}. Nothing is certified."


def _failed(story: Story) -> str:
    reason = str(story.answer.get("reason") or "").rstrip(".")
    return f"**No program of {story.name} keeps the limits**" + (f": {reason}." if reason else ".")


def energy_label(energy: Record | None) -> str:
    """`measured, 1.2 to 1.4` or `estimated, 1.2 to 1.4`; empty where there is nothing to label."""
    return ", ".join(part for part in (str(energy.get("label") or ""), words.joules(energy).range) if part) if energy else ""


def _speed(story: Story) -> str:
    speedup: Record = story.answer.get("speedup") or {}
    lossless, start = speedup.get("over_lossless"), speedup.get("over_start")
    if not lossless or lossless.get("value") is None:
        return (
            f"**{story.name}** has an answer"
            if not start or start.get("value") is None
            else f"{story.name} is **{words.times(start)}** than it was"
        )
    compared, within = words.times(lossless), words.ratio(lossless).range
    if compared == "as fast":
        text = f"{story.name} is **as fast** as the fastest lossless program, within the noise" + (f" ({within})" if within else "")
    else:
        text = f"{story.name} is **{compared}**" + (f" ({within})" if within else "") + " than the fastest lossless program"
    return text + (f" and **{words.times(start)}** than it was" if start and start.get("value") and (start.get("low") or 0) > 1 else "")


def _smaller(story: Story) -> str:
    if story.run.get("objective") == "energy":
        return _thriftier(story)
    field = {"size": "size_bytes", "memory": "peak_memory_bytes"}.get(str(story.run.get("objective")), "")
    was, now = story.marked.get("start", {}).get(field), (story.answer.get("answer") or {}).get(field)
    if not field or not was or not now:
        return ""
    return f", takes **{words.size(now)}** of {'disk' if field == 'size_bytes' else 'memory'} instead of {words.size(was)}"


def _thriftier(story: Story) -> str:
    before, after = story.marked.get("start", {}).get("energy"), (story.answer.get("answer") or {}).get("energy_joules")
    if not before or not after:
        return ""
    return f", takes **{words.joules(after).value}** a call instead of {words.joules(before).value} ({after.get('label')})"


def _losing(story: Story, drop: Record) -> str:
    shown = words.points(drop)
    gained = (drop.get("value") or 0) < 0
    verb = "gaining" if gained else "losing"
    noun = f"point{'' if shown.value == '1' else 's'} of {story.metric}"
    bounds = [
        f"upper bound {'of the loss ' if gained else ''}{shown.high}" if shown.high else "",
        "" if story.max_drop is None else f"allowed {story.max_drop:g}",
    ]
    inside = ", ".join(b for b in bounds if b)
    return f"{verb} {shown.value.lstrip(chr(0x2212))} {noun}" + (f" ({inside})" if inside else "")


def _drop_note(story: Story) -> str:
    high = words.points(story.answer.get("drop_points")).high
    allowed = "" if story.max_drop is None else f"{story.max_drop:g} allowed"
    return ", ".join(part for part in (f"\N{LESS-THAN OR EQUAL TO} {high}" if high else "", allowed) if part)


def _was(before: float | None, now: float | None) -> str:
    return f"was {words.size(before)}" if before and now and before != now else ""
