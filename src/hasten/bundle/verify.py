"""Proves that a bundle is what was certified, and that this machine computes the same with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import HastenError
from ..core.machine import this_machine, versions
from ..core.samples import Samples
from .layout import COPY_AGAIN, REMOVE_IT
from .read import Bundle

SAME_PLACE = 1e-4
"""Greatest difference on the machine and library versions of the certificate, relative to the largest output: threads may
add in another order, and nothing else may differ."""
OTHER_LOSSLESS = 1e-3
"""The same elsewhere, for a program that computes in float32: other instruction sets round otherwise."""
OTHER_REDUCED = 5e-2
"""The same elsewhere, for int8 or half precision, whose kernels differ between instruction sets. The best class must agree too."""
PIXELS = 1e-2
"""Greatest difference of a preprocessed picture elsewhere, relative to the largest value: decoders differ by a grey level."""
SAME_PLACE_OUTCOMES = 0.002
"""Share of the certify split's samples whose outcome may differ on the machine and versions of the certificate: near ties."""
OTHER_OUTCOMES = 0.02
"""The same elsewhere."""
OTHER_QUALITY = 0.005
"""Greatest change of the mean outcome elsewhere, as a share of the largest outcome: half a point of accuracy."""

Score = Callable[[Mapping[str, np.ndarray], np.ndarray | None], np.ndarray]
"""Outputs and labels -> per-sample outcomes [N, ...], as the certificate's evidence holds them."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One thing that was checked. name: what; ok: whether it holds; sentence: the numbers and the rule; hint: the way out."""

    name: str
    ok: bool
    sentence: str
    hint: str = ""


def verify(path: Path, *, samples: Samples | None = None, score: Score | None = None) -> list[Proof]:
    """All that can be proved about the bundle in `path`, in order: files, preprocessing, golden examples, quality.

    samples, score: the certify split and the metric of the certificate; without them quality is left out. A program whose
    files are not as written is not run. Raises BundleError where the manifest itself cannot be trusted.
    """
    with Bundle.open(path) as bundle:
        proofs = prove(bundle)
        if samples is not None and score is not None and all(proof.ok for proof in proofs):
            proofs += _attempt("quality", lambda: _quality(bundle, samples, score))
        return proofs


def prove(bundle: Bundle) -> list[Proof]:
    """What `verify` proves without data, about a bundle that is open; its program stays loaded."""
    files = list(_files(bundle))
    if any(not proof.ok for proof in files):
        return [*files, Proof(name="golden examples", ok=False, sentence="not run, since the files are not the ones that were written")]
    checks = {"preprocessing": _preprocessing, "golden examples": _golden, "shared calls": _shared}
    return [*files, *(proof for name, check in checks.items() for proof in _attempt(name, partial(check, bundle)))]


def same_place(bundle: Bundle) -> bool:
    """Whether this machine and the library versions are those of the certificate."""
    manifest = bundle.manifest
    return manifest.machine.get("id") == this_machine().id and manifest.runtime.versions == dict(bundle.runtime.step().versions)


def _files(bundle: Bundle) -> Iterator[Proof]:
    wrong = {name: (problem, COPY_AGAIN) for name in bundle.manifest.files if (problem := bundle.problem(name))}
    wrong |= dict.fromkeys(bundle.extra_program_files(), ("was added after the bundle was written", REMOVE_IT))
    for name, (problem, hint) in sorted(wrong.items()):
        yield Proof(name=name, ok=False, sentence=problem, hint=hint)
    if not wrong:
        yield Proof(name="files", ok=True, sentence=f"all {len(bundle.manifest.files)} have the size and sha256 that were written")


def _attempt(name: str, check: Callable[[], Proof | None]) -> list[Proof]:
    try:
        proof = check()
    except HastenError as error:
        proof = Proof(name=name, ok=False, sentence=str(error).rstrip("."))
    return [proof] if proof else []


def _preprocessing(bundle: Bundle) -> Proof | None:
    if bundle.manifest.preprocess is None:
        return None
    same_decoder = bundle.manifest.versions.get("pillow") == versions("pillow").get("pillow")
    golden, limit = bundle.golden, SAME_PLACE if same_place(bundle) and same_decoder else PIXELS
    prepared = bundle.prepare(golden.raw)
    worst = max(relative_difference(prepared[name], golden.tensors[name]) for name in prepared)
    return Proof(
        name="preprocessing",
        ok=worst <= limit,
        sentence=f"{_count(golden.tensors)} pictures differ by {worst:.2g} from the tensors that were certified; at most {limit:g} may be",
    )


def _golden(bundle: Bundle) -> Proof:
    limit, rule = _rule(bundle)
    golden = bundle.golden
    return _compared(bundle, "golden examples", bundle.run_as_certified(golden.tensors), golden.outputs, limit, rule)


def _shared(bundle: Bundle) -> Proof | None:
    """What the golden examples give in one call, as requests that share one: kernels may round otherwise there."""
    fixed = bundle.signature.batch is not None or "batch-dependent" in bundle.manifest.candidate["facts"]
    if fixed or bundle.manifest.to_target().batch_size >= _count(bundle.golden.tensors):
        return None
    return compare_shared(bundle, bundle.run(bundle.golden.tensors), bundle.golden.outputs)


def compare_shared(bundle: Bundle, outputs: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray]) -> Proof:
    """Whether golden examples that shared a call gave what they gave when they were certified. Both: outputs by name, [N, ...]."""
    limit = OTHER_LOSSLESS if bundle.manifest.to_candidate(bundle.path).lossless else OTHER_REDUCED
    return _compared(bundle, "shared calls", outputs, golden, limit, "where they share a call")


def _compared(
    bundle: Bundle, name: str, outputs: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray], limit: float, rule: str
) -> Proof:
    """`outputs` beside the golden ones."""
    worst = max(relative_difference(outputs[key], golden[key]) for key in golden)
    ok, sentence = worst <= limit, f"{_count(golden)} outputs differ by {worst:.2g} of the largest; at most {limit:g} may be {rule}"
    if bundle.manifest.classifier:
        judged = bundle.manifest.output
        agree = outputs[judged].argmax(axis=1) == golden[judged].argmax(axis=1)
        ok = ok and bool(agree.all())
        sentence += f"; the best class agrees for {int(agree.sum())} of {len(agree)}, and must for all"
    return Proof(name=name, ok=ok, sentence=sentence)


def _rule(bundle: Bundle) -> tuple[float, str]:
    """The tolerance that holds here, and the words for it."""
    if same_place(bundle):
        return SAME_PLACE, "on the machine and versions of the certificate"
    if bundle.manifest.to_candidate(bundle.path).lossless:
        return OTHER_LOSSLESS, "in float32 on another machine or other versions"
    return OTHER_REDUCED, "in reduced precision on another machine or other versions"


def _quality(bundle: Bundle, samples: Samples, score: Score) -> Proof | None:
    recorded = next((line for line in bundle.evidence if line["kind"] == "outcomes"), None)
    if recorded is None:
        return None
    then = np.asarray(recorded["answer"], dtype=np.float64)
    if len(samples) != len(then):
        sentence = f"the data hold {len(samples)} samples where {len(then)} were certified: they are other data"
        return Proof(name="quality", ok=False, sentence=sentence)
    now = _outcomes(bundle, samples, score)
    if now.shape != then.shape:
        return Proof(
            name="quality", ok=False, sentence=f"the outcomes have shape {now.shape} where {then.shape} was certified: another metric"
        )
    here, (tolerance, _) = same_place(bundle), _rule(bundle)
    share, allowed = _share_of_differing(now, then, tolerance), SAME_PLACE_OUTCOMES if here else OTHER_OUTCOMES
    sentence = f"{share:.2%} of {len(now)} samples have another outcome than when certified; at most {allowed:.1%} may"
    ok = share <= allowed
    if now.ndim == 1 and np.isfinite(now).all() and np.isfinite(then).all():
        change = abs(float(now.mean() - then.mean())) / (float(np.abs(then).max()) or 1.0)
        ok = ok or (not here and change <= OTHER_QUALITY)  # elsewhere, outcomes that change both ways are no loss
        sentence = f"{recorded['metric']} is {now.mean():.4f} here and was {then.mean():.4f} when certified; {sentence}"
        sentence += "" if here else f", unless the mean changes by at most {OTHER_QUALITY:.1%}"
    return Proof(name="quality", ok=bool(ok), sentence=sentence)


def _share_of_differing(now: np.ndarray, then: np.ndarray, tolerance: float) -> float:
    """Share of samples [N, ...] with another outcome: any difference for whole numbers, else one beyond the tolerance."""
    whole = bool((np.round(now) == now).all() and (np.round(then) == then).all())
    limit = 0.5 if whole else max(tolerance, 1e-3) * float(np.abs(then[np.isfinite(then)]).max(initial=0.0))
    differs = ~np.isclose(now, then, rtol=0, atol=limit, equal_nan=True)
    return float(differs.reshape(len(now), -1).any(axis=1).mean())


def _outcomes(bundle: Bundle, samples: Samples, score: Score, batch_size: int = 64) -> np.ndarray:
    rows = []
    for start in range(0, len(samples), batch_size):
        part = samples.take(np.arange(start, min(start + batch_size, len(samples))))
        rows.append(np.asarray(score(bundle.run_as_certified(bundle.prepare(part.inputs)), part.labels), dtype=np.float64))
    return np.concatenate(rows)


def relative_difference(got: Any, want: Any) -> float:
    """The greatest difference, relative to the largest value of `want`. Infinite for other shapes and for NaN where there was none."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    if got.shape != want.shape or not np.array_equal(np.isfinite(got), np.isfinite(want)):
        return float("inf")
    finite = np.isfinite(want)
    if not finite.any():
        return 0.0
    return float(np.abs(got - want)[finite].max() / max(float(np.abs(want[finite]).max()), 1e-12))


def _count(tensors: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(tensors.values())))
