"""Every example is a job that hasten understands; the one that needs no download is built for real."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hasten.core.job import Job
from hasten.core.preprocess import open_picture
from hasten.core.samples import Samples, make_splits

EXAMPLES = Path(__file__).parents[2] / "examples"
JOBS = sorted(EXAMPLES.glob("*/*.toml"))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    module = load(EXAMPLES / "digits" / "digits.py")
    if "HASTEN_EXAMPLES_CACHE" not in os.environ:
        module.CACHE = tmp_path_factory.mktemp("cache")  # type: ignore[attr-defined]
    return module


def test_there_are_examples() -> None:
    assert EXAMPLES / "digits" / "job.toml" in JOBS


@pytest.mark.parametrize("path", JOBS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_example_is_a_valid_job_whose_callables_are_in_its_folder(path: Path) -> None:
    job = Job.read(path)
    for source in (job.model.source, job.data.source):
        assert source is not None
        file, _, function = source.partition(":")
        assert f"\ndef {function}(" in job.path(file).read_text(encoding="utf8")


@pytest.mark.parametrize("path", sorted([*EXAMPLES.glob("*/*.py"), *EXAMPLES.glob("../benchmarks/fetch.py")]), ids=lambda p: p.name)
def test_every_file_is_python(path: Path) -> None:
    compile(path.read_text(encoding="utf8"), path.name, "exec")


def test_digits_splits_do_not_leak_and_are_large_enough_to_certify_one_point(digits: ModuleType) -> None:
    images, labels = digits.data()
    splits = make_splits({"all": Samples(inputs={"": images}, labels=labels)})
    trained_on = set(Samples(inputs={"": digits.shuffled()[0][: digits.NUM_TRAIN]}).sample_digests())
    assert not trained_on & set(splits.certify.sample_digests())
    assert len(splits.certify) > 700


def test_digits_network_is_right_trained_once_and_then_read_from_the_cache(digits: ModuleType) -> None:
    import torch

    preprocess = Job.read(EXAMPLES / "digits" / "job.toml").data.preprocess
    assert preprocess is not None
    images, labels = digits.data()
    network = digits.model()
    weights = list(digits.CACHE.glob("digits-*.safetensors"))
    before = [w.stat().st_mtime_ns for w in weights]
    with torch.inference_mode():
        predicted = network(torch.from_numpy(preprocess(images))).argmax(1).numpy()
    assert np.mean(predicted == labels) > 0.97
    digits.model()
    assert weights
    assert [w.stat().st_mtime_ns for w in weights] == before


def test_digits_writes_a_picture_that_predict_can_read(digits: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits.main(str(tmp_path / "digit.png"))
    picture = open_picture((tmp_path / "digit.png").read_bytes(), "L")
    assert np.array_equal(np.asarray(picture), digits.data()[0][0])
    assert str(digits.data()[1][0]) in capsys.readouterr().out
