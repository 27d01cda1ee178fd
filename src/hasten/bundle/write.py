"""Writes a bundle: as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..core.candidate import Candidate
from ..core.digest import sha256_file
from ..core.errors import BundleError, DataError, HastenError, JobError, NotPossibleHere
from ..core.machine import Machine, this_machine, versions
from ..core.preprocess import ImagePreprocess
from ..core.samples import Samples
from ..core.seams import Arrays, Runtime, Target
from .arrays import free_batch, save_golden
from .card import model_card
from .distribution import Distribution, Kind, summarise
from .layout import CARD, DISTRIBUTION, EVIDENCE, FRONT, GOLDEN, MANIFEST, PORTABLE, PROGRAM, SCHEMA_VERSION
from .manifest import FileRecord, Manifest, RuntimeRecord, TargetRecord, check_inside, is_bundle, read_manifest

_CLASS_METRICS = frozenset({"accuracy", "top5", "precision", "recall", "f1", "agreement"})


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that goes into a bundle.

    model: its name; answer: the document of `hasten optimize --json`; program: the folder that Runtime.compile wrote;
    portable: the same candidate as ONNX, external weights beside it; golden: a few samples as they come in,
    golden_tensors: the same preprocessed, golden_outputs: what the certified program gave for them; output: the judged
    output (None: the first);
    certify_inputs, certify_outputs: tensors of the certify split and what the program gave for them (the judged output is enough; none
    where it was not run over them), of which only histograms are written;
    machine: where it was certified; evidence, front: lines and list as in layout.py; limits: what was asked.
    """

    model: str
    answer: Mapping[str, Any]
    program: Path
    runtime: Runtime
    target: Target
    candidate: Candidate
    portable: Path | None = None
    preprocess: ImagePreprocess | None = None
    labels: tuple[str, ...] | None = None
    metric: str
    output: str | None = None
    golden: Samples
    golden_tensors: Arrays
    golden_outputs: Arrays
    certify_inputs: Arrays = field(default_factory=dict)
    certify_outputs: Arrays = field(default_factory=dict)
    machine: Machine = field(default_factory=this_machine)
    evidence: Sequence[Mapping[str, Any]] = ()
    front: Sequence[Mapping[str, Any]] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)


def write(contents: Contents, out: Path) -> Path:
    """The bundle in `out`, which appears by one rename. A bundle that is there is replaced.

    Raises JobError where `out` is something else than a bundle, NotPossibleHere where it cannot be written.
    """
    _check(contents)
    out = Path(os.path.realpath(out))  # through a link, so that the link stays
    with _disk_errors(out):
        _check_place(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-new-", dir=out.parent))
        try:
            _fill(temporary, contents)
            _sync(temporary)
            _swap(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return out


def check_place(out: Path) -> None:
    """Whether `write` can write there, before the work is done. Raises JobError, NotPossibleHere, as `write` would."""
    out = Path(os.path.realpath(out))
    with _disk_errors(out):
        _check_place(out)
        tempfile.TemporaryDirectory(dir=next(folder for folder in out.parents if folder.exists())).cleanup()


def add_file(root: Path, name: str, text: str) -> Path:
    """Put a text file into a finished bundle (the report), replacing the one of that name; the manifest lists it."""
    manifest = read_manifest(root)
    path = check_inside(root, name)
    if path.parent != root or name == MANIFEST:
        raise BundleError(name, "must be a plain file name other than the manifest's")
    with _disk_errors(root):
        _write_atomically(path, text)
        record = FileRecord(sha256=sha256_file(path), size_bytes=path.stat().st_size)
        changed = manifest.model_copy(update={"files": dict(sorted({**manifest.files, name: record}.items()))})
        _write_atomically(root / MANIFEST, changed.text())
    return path


def _check(contents: Contents) -> None:
    signature = contents.candidate.signature
    outputs = {spec.name for spec in signature.outputs}
    if not contents.program.is_dir():
        raise BundleError("program", "must be the folder that the runtime compiled into", got=str(contents.program))
    if contents.output is not None and contents.output not in outputs:
        raise BundleError("output", "must be one of the model's outputs " + ", ".join(sorted(outputs)), got=contents.output)
    if set(contents.golden_outputs) != outputs:
        raise BundleError("golden_outputs", "must hold every output of the model", got=sorted(contents.golden_outputs))
    free_batch(signature).check(contents.golden_tensors)
    if len(contents.golden) == 0:
        raise DataError("golden", "must hold at least one sample", got="none")


def _check_place(out: Path) -> None:
    if out.is_file():
        raise JobError("out", "must be a folder", got=str(out), hint="A file is there: name another place")
    if out.is_dir() and any(out.iterdir()) and not is_bundle(out):
        raise JobError(
            "out",
            "must be a new or empty folder, or a bundle to replace",
            got=str(out),
            hint="Something else is in it: name another folder",
        )


def _fill(root: Path, contents: Contents) -> None:
    root.chmod(0o777 & ~_umask())  # mkdtemp's own mode would keep a server's user out
    shutil.copytree(contents.program, root / PROGRAM, copy_function=shutil.copyfile)
    if contents.portable is not None:
        shutil.copyfile(contents.portable, root / PORTABLE)
        for weights in contents.portable.parent.glob(f"{contents.portable.name}.*"):  # what ONNX calls external data
            shutil.copyfile(weights, root / weights.name)
    save_golden(root / GOLDEN, _named(contents), contents.golden_tensors, contents.golden_outputs)
    lines = [*contents.evidence]
    if not any(line.get("kind") == "answer" for line in lines):
        lines.append({"kind": "answer", **contents.answer})
    (root / EVIDENCE).write_text("".join(_json(line) + "\n" for line in lines), encoding="utf8")
    (root / FRONT).write_text(_json(list(contents.front), indent=1) + "\n", encoding="utf8")
    manifest = _manifest(contents)
    if contents.certify_inputs:
        (root / DISTRIBUTION).write_text(_json(_distribution(contents, manifest).to_json()) + "\n", encoding="utf8")
    (root / CARD).write_text(model_card(manifest, contents.answer), encoding="utf8")
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    files = {name: FileRecord(sha256=sha256_file(root / name), size_bytes=(root / name).stat().st_size) for name in paths}
    (root / MANIFEST).write_text(manifest.model_copy(update={"files": files}).text(), encoding="utf8")


def _distribution(contents: Contents, manifest: Manifest) -> Distribution:
    kind = Kind(signature=manifest.signature, output=manifest.output, classifier=manifest.classifier, probabilities=manifest.probabilities)
    return summarise(contents.certify_inputs, contents.certify_outputs, kind)


def _manifest(contents: Contents) -> Manifest:
    """The manifest without its files."""
    output = contents.output or contents.candidate.signature.outputs[0].name
    scores = np.asarray(contents.golden_outputs[output])
    classifier = scores.ndim == 2 and scores.shape[1] > 1 and (contents.labels is not None or contents.metric in _CLASS_METRICS)
    if classifier and contents.labels is not None and len(contents.labels) != scores.shape[1]:
        raise DataError("data.labels", f"must name each of the {scores.shape[1]} classes", got=f"{len(contents.labels)} names")
    step = contents.runtime.step()
    options: Any = contents.runtime  # a dataclass, as every plug-in is
    return Manifest(
        schema_version=SCHEMA_VERSION,
        model=re.sub(r"[^A-Za-z0-9._-]+", "-", contents.model).strip("-.") or "model",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        candidate=_plain(contents.candidate.to_json()),
        runtime=RuntimeRecord(
            name=step.name, knobs=_plain({f.name: getattr(options, f.name) for f in fields(options)}), versions=dict(step.versions)
        ),
        target=TargetRecord(threads=contents.target.threads, batch_size=contents.target.batch_size, device=contents.target.device),
        preprocess=contents.preprocess,
        labels=contents.labels,
        metric=contents.metric,
        output=output,
        classifier=classifier,
        probabilities=classifier and _are_probabilities(scores),
        limits=_plain(contents.limits),
        machine=_plain(contents.machine.to_json()),
        versions={"hasten": __version__, **versions("numpy", "pillow")},
        files={},
    )


def _named(contents: Contents) -> dict[str, Any]:
    """The golden inputs by the model's names."""
    first = contents.candidate.signature.inputs[0].name
    return {name or first: values for name, values in contents.golden.inputs.items()}


def _are_probabilities(scores: np.ndarray) -> bool:
    # A quantised softmax misses 1 by its step times the number of classes, hence the wide margin.
    return bool((scores >= 0).all() and (scores <= 1.0001).all() and (np.abs(scores.sum(axis=1) - 1) < 0.1).all())


def _swap(temporary: Path, out: Path) -> None:
    """`temporary` becomes `out`. A bundle that is there steps aside first and comes back if that fails."""
    aside = None
    if out.is_dir() and any(out.iterdir()):
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent)) / out.name
        out.rename(aside)
    try:
        temporary.rename(out)
    except OSError:
        if aside is not None:
            aside.rename(out)
        raise
    finally:
        if aside is not None and out.exists():  # else what stepped aside is all there is
            shutil.rmtree(aside.parent, ignore_errors=True)
    _sync_one(out.parent)


def _sync(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_atomically(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_one(path.parent)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except HastenError:
        raise
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NotPossibleHere("out", f"cannot be written ({reason})", got=str(out), hint="Free space, or name another place") from None


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: no NaN, no numpy."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value if value is None or isinstance(value, str | int | bool) else str(value)
