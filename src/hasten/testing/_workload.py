"""The laws of what opens models and data: readers and loaders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..core.candidate import Floor
from ..core.errors import JobError
from ..core.job import DataSection, Job
from ..core.registry import find
from ..core.samples import Samples, make_splits
from ..core.seams import Arrays, Loader, Reader, Runtime, Target

_TARGET = Target(threads=1)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A real source for a reader. text: as a job names it; folder: relative paths start there; samples: what it holds."""

    text: str
    folder: Path
    samples: Samples

    @property
    def path(self) -> Path:
        return self.folder / self.text


class ReaderSuite:
    """Subclass it and give the fixtures `kind`, your reader, and `source`, something that it can read, of 20 samples or more."""

    def test_it_knows_its_own_and_says_why_not_of_others(self, kind: type[Reader], source: Source) -> None:
        assert kind().fits(source.text, source.path) is None
        why_not = kind().fits("something.unknown", source.folder / "something.unknown")
        assert why_not
        assert "\n" not in why_not

    def test_it_reads_what_is_there(self, kind: type[Reader], source: Source) -> None:
        samples = self._read(kind, source)
        assert samples.sample_digests() == source.samples.sample_digests()
        np.testing.assert_array_equal(samples.labels, source.samples.labels)

    def test_equal_content_has_an_equal_name(self, kind: type[Reader], source: Source) -> None:
        first, again = (make_splits({"all": self._read(kind, source)}) for _ in range(2))
        assert first.digest == again.digest

    def test_a_limit_holds(self, kind: type[Reader], source: Source) -> None:
        assert len(self._read(kind, source, limit=12)) == 12

    def test_what_is_not_there_is_not_its_own_or_an_error_in_one_line(self, kind: type[Reader], source: Source) -> None:
        missing = f"missing-{source.text}"
        told = kind().fits(missing, source.folder / missing)
        if told is None:
            with pytest.raises(JobError) as caught:
                kind().read(missing, source.folder / missing, DataSection(source=missing))
            told = str(caught.value)
        assert "\n" not in told

    def _read(self, kind: type[Reader], source: Source, **settings: Any) -> Samples:
        parts = kind().read(source.text, source.path, DataSection(source=source.text, **settings))
        assert set(parts) == {"all"}
        return parts["all"].check("source")


@dataclass(frozen=True, kw_only=True)
class Original:
    """A real model for a loader. job: names it; example: inputs [n >= 2, ...]; outputs: what it must compute for them."""

    job: Job
    example: Arrays
    outputs: Arrays


class LoaderSuite:
    """Subclass it and give the fixtures `kind`, your loader, and `original`, a model that it can open."""

    tolerance = 1e-5

    def test_it_knows_its_own_and_says_why_not_of_others(self, kind: type[Loader], original: Original) -> None:
        assert kind().fits(original.job) is None
        other = Job.make({"model": {"source": "something.unknown"}, "data": {"source": "x.npz"}})
        why_not = kind().fits(other)
        assert why_not
        assert "\n" not in why_not

    def test_what_it_opens_computes_what_the_model_computes(self, kind: type[Loader], original: Original, tmp_path: Path) -> None:
        candidate = kind().open(original.job, original.example, tmp_path)
        assert candidate.path.is_relative_to(tmp_path)
        runtime = next(r() for r in find(Runtime).values() if r.defines_right and r.floor is candidate.floor)
        assert candidate.floor in (Floor.MODULE, Floor.GRAPH)
        folder = tmp_path / "program"
        folder.mkdir()
        runtime.compile(candidate, _TARGET, folder)
        program = runtime.load(folder, _TARGET)
        inputs = candidate.signature.check({spec.name: original.example[spec.name] for spec in candidate.signature.inputs})
        got = program.run(inputs)
        for name, expected in original.outputs.items():
            np.testing.assert_allclose(got[name], expected, rtol=self.tolerance, atol=self.tolerance)

    def test_equal_content_has_an_equal_name(self, kind: type[Loader], original: Original, tmp_path: Path) -> None:
        names = []
        for place in ("first", "again"):
            (tmp_path / place).mkdir()
            names.append(kind().open(original.job, original.example, tmp_path / place).id)
        assert names[0] == names[1]

    def test_an_input_of_another_shape_is_refused_in_one_line(self, kind: type[Loader], original: Original, tmp_path: Path) -> None:
        wrong = {name: np.concatenate([array, array], axis=-1) for name, array in original.example.items()}
        with pytest.raises(JobError) as caught:
            kind().open(original.job, wrong, tmp_path)
        assert "\n" not in str(caught.value)
