"""Reads a bundle. Nothing in it is trusted: files are checked against their sha256 before they are used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..core import registry
from ..core.digest import sha256_file
from ..core.errors import BundleError, JobError, NotPossibleHere
from ..core.guess import Guess as Guess
from ..core.machine import usable_cores
from ..core.seams import Program, Runtime, Target
from ..core.signature import Signature
from .arrays import Golden, check_tensors, free_batch, prepare
from .distribution import Distribution
from .layout import COPY_AGAIN, DISTRIBUTION, EVIDENCE, FRONT, GOLDEN, PROGRAM, REMOVE_IT
from .manifest import Manifest, check_inside, read_manifest


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was opened. Its program is loaded at the first prediction; `close` (or `with`) lets it go."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """The bundle in the folder `path`. Only the manifest is read. Raises BundleError."""
        path = Path(path)
        return cls(path=path, manifest=read_manifest(path))

    @property
    def name(self) -> str:
        return self.manifest.model

    @cached_property  # asked several times for each request
    def signature(self) -> Signature:
        return self.manifest.signature

    @cached_property
    def evidence(self) -> list[dict[str, Any]]:
        """Every line of evidence, as layout.py describes them."""
        return [json.loads(line) for line in self.file(EVIDENCE).read_text(encoding="utf8").splitlines()]

    @property
    def answer(self) -> dict[str, Any]:
        """The document that `hasten optimize --json` printed."""
        return next(({k: v for k, v in line.items() if k != "kind"} for line in self.evidence if line["kind"] == "answer"), {})

    @property
    def front(self) -> list[dict[str, Any]]:
        return list(json.loads(self.file(FRONT).read_text(encoding="utf8")))

    @property
    def distribution(self) -> Distribution | None:
        """What the certified inputs and outputs looked like; None where that was not written down."""
        if DISTRIBUTION not in self.manifest.files:
            return None
        return Distribution.from_json(json.loads(self.file(DISTRIBUTION).read_text(encoding="utf8")))

    @property
    def golden(self) -> Golden:
        return Golden(self.file(GOLDEN))

    @property
    def runtime(self) -> Runtime:
        """The runtime with the knobs that were certified. Raises BundleError where this hasten does not know them."""
        record = self.manifest.runtime
        known = registry.find(Runtime)
        if record.name not in known:
            raise BundleError("runtime", f"must be one of {', '.join(known)}", got=record.name, hint="Name its plug-in with --plugin FILE")
        knobs = {name: tuple(value) if isinstance(value, list) else value for name, value in record.knobs.items()}
        try:
            return known[record.name](**knobs)
        except (TypeError, JobError) as error:
            raise BundleError(
                "runtime", f"{record.name} does not take these knobs ({str(error).rstrip('.')})", hint="Use the version that wrote it"
            ) from None

    @property
    def target(self) -> Target:
        """The target of the certificate, with no more threads than this process may use."""
        target = self.manifest.to_target()
        return replace(target, threads=min(target.threads, usable_cores()))

    def file(self, name: str) -> Path:
        """The path of a file, after checking its size and sha256. Raises BundleError."""
        if name not in self.manifest.files:
            raise BundleError(name, "is not a file of this bundle")
        if problem := self.problem(name):
            raise BundleError(name, problem, hint=COPY_AGAIN)
        return self.path / name

    def problem(self, name: str) -> str | None:
        """What is wrong with the file `name` (truncated, changed, missing, behind a link), or None."""
        record = self.manifest.files[name]
        try:
            path = check_inside(self.path, name)
            if not path.is_file():
                return "is missing"
            if (size := path.stat().st_size) != record.size_bytes:
                return f"must have {record.size_bytes} bytes, but has {size}: it was truncated or changed"
            if sha256_file(path) != record.sha256:
                return "was changed after it was written: its sha256 does not match"
        except BundleError as error:
            return str(error).removeprefix(f"{name}: ").rstrip(".")
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return None

    def extra_program_files(self) -> list[str]:
        """Files in program/ that the manifest does not list: a runtime might load them."""
        root = self.path / PROGRAM
        found = [p.relative_to(self.path).as_posix() for p in root.rglob("*") if p.is_symlink() or not p.is_dir()]
        return sorted(set(found) - set(self.manifest.files))

    def check_program(self) -> None:
        """Raises BundleError unless program/ holds exactly what was written."""
        listed = [name for name in self.manifest.files if name.startswith(PROGRAM + "/")]
        if not listed:
            raise BundleError(PROGRAM, "must hold the program's files")
        for name in listed:
            self.file(name)
        if extra := self.extra_program_files():
            raise BundleError(extra[0], "was added after the bundle was written", hint=REMOVE_IT)

    def program(self, target: Target | None = None) -> Program:
        """The program, checked and loaded anew; the caller closes it. Raises BundleError, NotPossibleHere, MissingExtra."""
        self.check_program()
        target = target or self.target
        runtime = self.runtime
        if reason := runtime.fits(self.manifest.to_candidate(self.path), target):
            raise NotPossibleHere("bundle", f"cannot run here: {reason}")
        return runtime.load(self.path / PROGRAM, target)

    @cached_property
    def _program(self) -> Program:
        return self.program()

    def load(self) -> Self:
        """Load the program now instead of at the first prediction."""
        _ = self._program
        return self

    def use(self, program: Program) -> Self:
        """Run `program`, which was made of this bundle, instead of loading one; `close` closes it."""
        self.__dict__["_program"] = program
        return self

    def prepare(self, inputs: Any) -> dict[str, np.ndarray]:
        """The model's tensors: pictures preprocessed, tensors checked. inputs: as for `predict`. Raises DataError."""
        return prepare(inputs, self.signature, self.manifest.preprocess)

    def prepare_tensors(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Finished tensors, checked: nothing is taken for a picture. Raises DataError."""
        return check_tensors(tensors, self.signature)

    def run(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The program's outputs for prepared tensors of any batch size; a fixed batch is filled up and cut again.

        A program whose result for a sample depends on its company in the batch runs at the batch size that was certified.
        """
        company_matters = "batch-dependent" in self.manifest.candidate["facts"]
        size = self.manifest.to_target().batch_size if company_matters else None
        return run_batched(self._program, self.signature, tensors, size=size)

    def run_as_certified(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same in calls of the size that was certified. Kernels may round otherwise in larger ones, in 8 bits by a whole step."""
        return run_batched(self._program, self.signature, tensors, size=self.signature.batch or self.manifest.to_target().batch_size)

    def predict(self, inputs: Any) -> dict[str, np.ndarray]:
        """Outputs by name, [N, ...].

        inputs: by name, or bare for a model with one input: encoded pictures or uint8 pictures where the bundle declares
        preprocessing, tensors [N, ...] otherwise. Raises DataError.
        """
        return self.run(self.prepare(inputs))

    def classify(self, inputs: Any, *, top: int = 5) -> list[list[Guess]]:
        """For each sample the `top` most probable classes, best first. Raises BundleError where the model is no classifier."""
        return self.guesses(self.predict(inputs), top=top)

    def guesses(self, outputs: Mapping[str, np.ndarray], *, top: int = 5) -> list[list[Guess]]:
        """`outputs` of a classifier as classes with probabilities."""
        if not self.manifest.classifier:
            raise BundleError(
                "bundle", f"must hold a classifier to name classes (it is judged by {self.manifest.metric})", hint="Use predict"
            )
        scores = np.asarray(outputs[self.manifest.output], dtype=np.float64)
        probabilities = scores if self.manifest.probabilities else softmax(scores)
        labels = self.manifest.labels
        return [
            [Guess(label=labels[i] if labels else str(i), index=int(i), score=float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
            for row in probabilities
        ]

    def close(self) -> None:
        """Give back the program."""
        if program := self.__dict__.pop("_program", None):
            program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities, [N, classes], of scores of any size, [N, classes]."""
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def run_batched(
    program: Program, signature: Signature, tensors: Mapping[str, np.ndarray], *, size: int | None = None
) -> dict[str, np.ndarray]:
    """`program.run` for any number of samples, also where the signature fixes the batch, or `size` samples at a time."""
    size = size or signature.batch
    if size is None or (size == signature.batch and free_batch(signature) is signature):
        return program.run(tensors)
    total = len(next(iter(tensors.values())))
    parts = []
    for start in range(0, total, size):
        chunk = {name: array[start : start + size] for name, array in tensors.items()}
        short = size - len(next(iter(chunk.values())))
        if short:
            chunk = {name: np.concatenate([array, np.repeat(array[-1:], short, axis=0)]) for name, array in chunk.items()}
        parts.append(program.run({name: np.ascontiguousarray(array) for name, array in chunk.items()}))
    return {name: np.concatenate([part[name] for part in parts])[:total] for name in parts[0]}
