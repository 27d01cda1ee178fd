"""Students can learn from another model than the one that is made fast: one in Python, or one behind a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
import serving

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.errors import JobError, NotPossibleHere, WorkerError
from hasten.core.job import Job
from hasten.core.registry import get
from hasten.core.seams import Context, Technique, Training
from hasten.core.signature import Signature, TensorSpec
from hasten.core.store import Store
from hasten.search.opening import open_workload
from hasten.train.lift import flat_outputs, lower, read_module
from hasten.train.served import Served
from hasten.train.student import Student

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("httpx2", reason="pip install 'hasten[client]'")
SIGNATURE = Signature(
    inputs=(TensorSpec(name="pixels", dtype="float32", shape=(None, 3, bundles.SIDE, bundles.SIDE)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(None, bundles.CLASSES)),),
)
PIXELS = np.random.default_rng(0).normal(size=(64, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    return write(bundles.picture_contents(folder), folder / "out")


@pytest.fixture(scope="module")
def address(bundle: Path) -> Iterator[str]:
    with serving.process(f"pictures={bundle}", slo="20s") as (_, (url, *_)):
        yield f"{url}/pictures"


def answered(bundle: Path, pixels: np.ndarray) -> np.ndarray:
    with Bundle.open(bundle) as opened:
        return next(iter(opened.load().run({"pixels": pixels}).values()))


def original(folder: Path) -> Candidate:
    """A network like the bundle's, which knows nothing."""
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, bundles.CLASSES))
    lower(module, (torch.from_numpy(PIXELS[:4]),), folder / "net.pt2", free_batch=True)
    return Candidate(floor=Floor.MODULE, path=folder / "net.pt2", signature=SIGNATURE, lineage=(Step(name="net"),))


def training(folder: Path, **more: Any) -> Training:
    np.save(folder / "pixels.npy", PIXELS)
    return Training(
        inputs={"pixels": folder / "pixels.npy"}, labels=None, original=original(folder), output=0, classifier=True,
        checkpoint=folder / "c.pt", batch_size=16, answers=folder / "answers", **more,
    )  # fmt: skip


def test_a_served_teacher_answers_as_its_bundle_does_whatever_its_output_is_called(address: str, bundle: Path) -> None:
    for place in (address, address.replace("/pictures", "/v2/models/pictures/versions/1")):
        with Served(place, SIGNATURE) as served:
            served.ask({"pixels": PIXELS[:4]})
            np.testing.assert_allclose(served(torch.from_numpy(PIXELS))[0].numpy(), answered(bundle, PIXELS), rtol=1e-5, atol=1e-6)


def test_a_student_learns_what_the_server_answers_and_asks_for_it_once(address: str, bundle: Path, tmp_path: Path) -> None:
    given, context = training(tmp_path, teacher=address), Context(folder=tmp_path / "out", calibration={}, seed=0)
    context.folder.mkdir()
    distillation = get(Technique, "distillation")(student="same", alpha=1.0, temperature=1.0, epochs=60, learning_rate=0.05)
    made = distillation.apply(given.original, replace(context, training=given))
    wanted = answered(bundle, PIXELS).argmax(1)
    before, after = (_agreement(candidate, wanted) for candidate in (given.original, made))
    assert after > before
    assert after > 0.8
    gone = replace(given, teacher="http://127.0.0.1:9/pictures", checkpoint=tmp_path / "d.pt")  # nobody is there, and nobody is needed
    again = Student.of(gone, given.original, seed=0)
    batch = next(iter(again.batches.epoch(0)))
    np.testing.assert_allclose(again.teacher(batch)[0].numpy(), answered(bundle, PIXELS[batch.rows]), rtol=1e-5, atol=1e-6)


def _agreement(candidate: Candidate, wanted: np.ndarray) -> float:
    with torch.no_grad():
        answers = flat_outputs(read_module(candidate.path)(torch.from_numpy(PIXELS)))[0]
    return float((answers.argmax(1).numpy() == wanted).mean())


def test_who_does_not_answer_as_the_model_does_cannot_teach_it(address: str, tmp_path: Path) -> None:
    other = replace(SIGNATURE, outputs=(TensorSpec(name="logits", dtype="float32", shape=(None, 3)),))
    with pytest.raises(JobError, match=r"train\.teacher: must give logits \(4, 3\) as the model does"):
        Served(address, other).ask({"pixels": PIXELS[:4]})
    with pytest.raises(WorkerError, match=r"train\.teacher: must answer at .*cannot be reached") as caught:
        Served("http://127.0.0.1:9/pictures", SIGNATURE).ask({"pixels": PIXELS[:4]})
    assert caught.value.cause == "killed"  # it is tried again when the server is back
    with pytest.raises(JobError, match=r"http\(s\)://host:port/MODEL"):
        Served("http://127.0.0.1:9", SIGNATURE)
    with pytest.raises(NotPossibleHere, match="must be a model, not a server"):
        Student.of(training(tmp_path, teacher=address), original(tmp_path), seed=0, features_share=1.0)


MODELS = """
import numpy as np
import torch

def net(classes=3, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, classes)).eval()

def larger():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()

def wrong():
    return net(classes=2)

def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)

def more():
    rng = np.random.default_rng(1)
    return rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)
"""

JOB = """
[model]
source = "models.py:net"
[data]
source = "models.py:data"
train = "models.py:more"
[train]
teacher = "models.py:larger"
"""


def test_a_job_names_a_larger_model_as_the_teacher(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "untaught.toml").write_text(JOB)
    (tmp_path / "job.toml").write_text(JOB + 'budget = "1m"\n')
    store = Store(tmp_path / "store")
    workload = open_workload(Job.read(tmp_path / "job.toml"), store)
    assert isinstance(workload.teacher, Candidate)
    assert workload.teacher.path.is_file()
    assert workload.teacher_id != workload.original.id
    for source, words in (("models.py:wrong", "must have the outputs of the model"), ("models.py", "file.py:function or http")):
        with pytest.raises(JobError, match=words):
            open_workload(Job.read(tmp_path / "job.toml", {"train.teacher": source}), store)
    assert open_workload(Job.read(tmp_path / "untaught.toml"), store).teacher is None  # nothing is trained, so nobody is asked
