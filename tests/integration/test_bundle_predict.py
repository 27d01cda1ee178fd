"""A bundle computes what was certified, and says so where it does not."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest

from hasten.bundle import layout
from hasten.bundle.read import Bundle
from hasten.bundle.verify import Proof, prove, verify
from hasten.bundle.write import write
from hasten.core.digest import digest_json
from hasten.core.errors import BundleError, DataError
from hasten.core.preprocess import ImagePreprocess
from hasten.core.samples import Samples
from hasten.core.seams import Arrays, Program

pytest.importorskip("onnx")


def proofs(path: Path, **given: Any) -> dict[str, Proof]:
    return {proof.name: proof for proof in verify(path, **given)}


def tampered(bundle: Path, **changes: Any) -> None:
    content = json.loads((bundle / layout.MANIFEST).read_text())
    content.pop("digest")
    content |= changes
    (bundle / layout.MANIFEST).write_text(json.dumps({**content, "digest": digest_json(content)}))


def accuracy(outputs: Any, labels: Any) -> np.ndarray:
    return np.asarray(outputs["scores"].argmax(axis=1) == labels, dtype=np.float64)


def test_bundle_is_verified_where_it_was_made(tmp_path: Path) -> None:
    found = proofs(write(bundles.picture_contents(tmp_path), tmp_path / "out"))
    assert list(found) == ["files", "preprocessing", "golden examples", "shared calls"]
    assert all(proof.ok for proof in found.values())


def test_another_program_under_the_same_name_is_found(tmp_path: Path) -> None:
    made = bundles.picture_contents(tmp_path)
    bundles.save_classifier(made.program / "model.onnx", seed=1)
    found = proofs(write(made, tmp_path / "out"))
    assert found["files"].ok
    assert found["preprocessing"].ok
    assert not found["golden examples"].ok


def test_another_preprocessing_is_found(tmp_path: Path) -> None:
    made = replace(bundles.picture_contents(tmp_path), preprocess=bundles.PREPROCESS.model_copy(update={"mean": (0.5,)}))
    assert not proofs(write(made, tmp_path / "out"))["preprocessing"].ok


@pytest.mark.parametrize(("shift", "lossless", "ok"), [(0.0, True, True), (0.02, True, False), (0.02, False, True), (0.2, False, False)])
def test_tolerance_elsewhere_depends_on_precision(tmp_path: Path, shift: float, lossless: bool, ok: bool) -> None:
    made = bundles.picture_contents(tmp_path)
    scores = np.array(made.golden_outputs["scores"])
    made = replace(
        made,
        candidate=replace(made.candidate, lossless=lossless),
        golden_outputs={"scores": scores + np.float32(shift * np.abs(scores).max())},  # the best class stays the best
    )
    out = write(made, tmp_path / "out")
    assert proofs(out)["golden examples"].ok == (shift == 0)
    tampered(out, machine={"id": "another", "text": "another"})
    assert proofs(out)["golden examples"].ok == ok


def test_best_class_must_agree_elsewhere(tmp_path: Path) -> None:
    made = bundles.picture_contents(tmp_path)
    scores = np.array(made.golden_outputs["scores"])
    order = np.argsort(scores[0])
    scores[0, order[-2]] = scores[0, order[-1]] + 1e-6 * np.abs(scores).max()
    made = replace(made, candidate=replace(made.candidate, lossless=False), golden_outputs={"scores": scores})
    out = write(made, tmp_path / "out")
    tampered(out, machine={"id": "another", "text": "another"})
    proof = proofs(out)["golden examples"]
    assert not proof.ok
    assert "the best class agrees for 4 of 5, and must for all" in proof.sentence


def test_quality_is_measured_again(tmp_path: Path) -> None:
    made = bundles.picture_contents(tmp_path)
    first = Bundle.open(write(made, tmp_path / "first"))
    inputs = {"": bundles.pictures(40, seed=3)}
    labels = np.arange(40) % bundles.CLASSES
    outcomes = accuracy(first.predict(inputs), labels)
    line = {"kind": "outcomes", "split": "certify", "metric": "accuracy", "answer": outcomes}
    out = write(replace(made, evidence=[line]), tmp_path / "out")
    samples = Samples(inputs=inputs, labels=labels)
    assert proofs(out, samples=samples, score=accuracy)["quality"].ok
    other = replace(samples, labels=np.roll(labels, 1))
    assert not proofs(out, samples=other, score=accuracy)["quality"].ok
    fewer = proofs(out, samples=samples.take(np.arange(30)), score=accuracy)["quality"]
    assert (fewer.ok, fewer.sentence) == (False, "the data hold 30 samples where 40 were certified: they are other data")


@pytest.mark.parametrize(("flips", "shift", "here", "elsewhere"), [(0, 0, True, True), (4, 0, False, True), (6, 6, False, False)])
def test_outcomes_may_change_both_ways_elsewhere_but_not_be_lost(
    tmp_path: Path, flips: int, shift: int, here: bool, elsewhere: bool
) -> None:
    made = bundles.picture_contents(tmp_path)
    first = Bundle.open(write(made, tmp_path / "first"))
    inputs = {"": bundles.pictures(60, seed=3)}
    labels = first.predict(inputs)["scores"].argmax(axis=1)
    labels[:30] += 100  # half of them wrong
    then = accuracy(first.predict(inputs), labels)
    then[: flips // 2 - shift // 2] = 1
    then[30 : 30 + flips // 2 + shift // 2] = 0
    out = write(replace(made, evidence=[{"kind": "outcomes", "metric": "accuracy", "answer": then}]), tmp_path / "out")
    samples = Samples(inputs=inputs, labels=labels)
    assert proofs(out, samples=samples, score=accuracy)["quality"].ok == here
    tampered(out, machine={"id": "another", "text": "another"})
    assert proofs(out, samples=samples, score=accuracy)["quality"].ok == elsewhere


def test_rows_of_classes_are_compared_exactly(tmp_path: Path) -> None:
    def rows(outputs: Any, labels: Any) -> np.ndarray:
        return np.stack([labels, outputs["scores"].argmax(axis=1)], axis=1)

    made = bundles.picture_contents(tmp_path)
    first = Bundle.open(write(made, tmp_path / "first"))
    inputs, labels = {"": bundles.pictures(30, seed=3)}, np.arange(30) + 500
    then = rows(first.predict(inputs), labels)
    for wrong, ok in ((0, True), (1, False)):
        then[:wrong, 1] += 1
        out = write(replace(made, evidence=[{"kind": "outcomes", "metric": "f1", "answer": then}]), tmp_path / f"out{wrong}")
        tampered(out, machine={"id": "another", "text": "another"})
        assert proofs(out, samples=Samples(inputs=inputs, labels=labels), score=rows)["quality"].ok == ok


def test_classify_gives_probabilities_with_labels_best_first(tmp_path: Path) -> None:
    bundle = Bundle.open(write(bundles.picture_contents(tmp_path), tmp_path / "out"))
    pictures = bundles.pictures(3, seed=5)
    everything = bundle.classify(pictures, top=bundles.CLASSES)
    scores = bundle.predict(pictures)["scores"].astype(np.float64)
    for row, guesses in zip(scores, everything, strict=True):
        assert sum(guess.score for guess in guesses) == pytest.approx(1)
        assert [guess.index for guess in guesses] == list(np.argsort(-row))
        assert all(guess.label == bundles.LABELS[guess.index] for guess in guesses)
    assert [len(guesses) for guesses in bundle.classify(pictures, top=2)] == [2, 2, 2]


def test_probabilities_are_not_softened_twice(tmp_path: Path) -> None:
    signature = bundles.save_classifier(tmp_path / "model.onnx", softmax=True)
    made = bundles.contents(tmp_path, signature, Samples(inputs={"pixels": bundles.pictures(5)}), preprocess=bundles.PREPROCESS)
    bundle = Bundle.open(write(made, tmp_path / "out"))
    picture = bundles.pictures(1)[0]
    assert bundle.classify(picture)[0][0].score == pytest.approx(float(bundle.predict(picture)["scores"].max()))
    assert bundle.classify(picture)[0][0].label == str(bundle.classify(picture)[0][0].index)


def test_no_classes_of_what_is_no_classifier(tmp_path: Path) -> None:
    bundle = Bundle.open(write(bundles.tensor_contents(tmp_path), tmp_path / "out"))
    with pytest.raises(BundleError, match="must hold a classifier to name classes"):
        bundle.classify(bundle.golden.raw)


def test_labels_must_name_every_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must name each of the 7 classes, but got '2 names'"):
        write(bundles.picture_contents(tmp_path, labels=("a", "b")), tmp_path / "out")


def test_several_inputs_of_several_types(tmp_path: Path) -> None:
    out = write(bundles.tensor_contents(tmp_path), tmp_path / "out")
    assert all(proof.ok for proof in verify(out))
    bundle = Bundle.open(out)
    raw = bundle.golden.raw
    np.testing.assert_array_equal(bundle.predict(raw)["total"], raw["left"] + raw["right"])
    with pytest.raises(DataError, match="inputs: must have the same number of samples"):
        bundle.predict({**raw, "ids": np.arange(3)})
    with pytest.raises(DataError, match=r"inputs: must be given by name\. The model wants left, right, ids, flags\."):
        bundle.predict(raw["left"])


@pytest.mark.parametrize("count", [1, 4, 6])
def test_fixed_batch_takes_any_number_of_samples(tmp_path: Path, count: int) -> None:
    pictures = bundles.pictures(count, seed=2)
    outputs = {}
    for batch in (None, 4):
        folder = tmp_path / str(batch)
        folder.mkdir()
        signature = bundles.save_classifier(folder / "model.onnx", batch=batch)
        made = bundles.contents(folder, signature, Samples(inputs={"": bundles.pictures(5)}), preprocess=bundles.PREPROCESS)
        out = write(made, folder / "out")
        assert all(proof.ok for proof in verify(out))
        outputs[batch] = Bundle.open(out).predict(pictures)["scores"]
    np.testing.assert_allclose(outputs[4], outputs[None], rtol=1e-5)


def test_golden_inputs_are_kept_as_they_came(tmp_path: Path) -> None:
    made = bundles.picture_contents(tmp_path)
    assert Bundle.open(write(made, tmp_path / "out")).golden.raw == {"pixels": made.golden.inputs[""]}


def test_golden_pictures_in_pixels_lose_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(20, 17, 3), (15, 30, 3), (16, 16, 3)]
    signature = bundles.save_classifier(tmp_path / "model.onnx")
    pixels = [rng.integers(0, 256, size=size, dtype=np.uint8) for size in sizes]
    made = bundles.contents(tmp_path, signature, Samples(inputs={"": pixels}), preprocess=bundles.PREPROCESS)
    out = write(made, tmp_path / "out")
    assert all(proof.ok for proof in verify(out))
    bundle = Bundle.open(out)
    np.testing.assert_array_equal(bundle.prepare(bundle.golden.raw)["pixels"], bundles.PREPROCESS(pixels))


def test_float_resize_is_torchs_interpolate() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    declared = ImagePreprocess(resize=(96, 96), float_resize=True, mean=mean, std=std)
    pictures = rng.integers(0, 256, size=(3, 32, 32, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    tensor = torch.nn.functional.interpolate(tensor, size=(96, 96), mode="bilinear", align_corners=False)
    tensor = (tensor - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    np.testing.assert_allclose(declared(pictures), tensor.numpy(), atol=1e-5)


@pytest.mark.parametrize("size", [(40, 61), (61, 40), (33, 33)])
def test_resize_and_centre_crop_are_pillows(size: tuple[int, int]) -> None:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    declared = ImagePreprocess(resize=32, crop=24, interpolation="bicubic", scale=1.0, mean=(127.0,), std=(128.0,), layout="NHWC")
    height, width = size
    short = min(size)
    resized = Image.fromarray(pixels).resize((int(width * 32 / short), int(height * 32 / short)), Image.Resampling.BICUBIC)
    left, top = (resized.width - 24) // 2, (resized.height - 24) // 2
    cropped = np.asarray(resized.crop((left, top, left + 24, top + 24)), dtype=np.float64)
    np.testing.assert_allclose(declared.one(pixels), (cropped - 127) / 128, atol=1e-5)


@pytest.mark.parametrize("damage", range(60))
def test_damaged_pictures_raise_nothing_but_data_errors(damage: int) -> None:
    rng = np.random.default_rng(damage)
    content = bytearray(bundles.pictures(2)[damage % 2])
    for place in rng.integers(0, len(content), size=6):
        content[place] = rng.integers(256)
    with contextlib.suppress(DataError):  # some decode all the same
        bundles.PREPROCESS([bytes(content[: rng.integers(1, len(content))])])


def test_a_long_thin_picture_does_not_fill_the_memory() -> None:
    with pytest.raises(DataError, match=r"must have at most 64000000 pixels after preprocess\.resize"):
        ImagePreprocess(resize=256).one(np.zeros((1, 30_000), np.uint8))


class Company(Program):
    """A program that computes otherwise where samples share a call, as int8 kernels do: by a step of their rounding."""

    def __init__(self, program: Program, step: float) -> None:
        self._program, self._step = program, step

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        outputs = self._program.run(inputs)
        if len(next(iter(inputs.values()))) == 1:
            return outputs
        return {name: array + self._step * np.abs(array).max() for name, array in outputs.items()}


@pytest.mark.parametrize(("step", "shared"), [(0.0, True), (5e-4, True), (0.1, False)])
def test_golden_examples_are_run_as_they_were_certified_and_once_more_together(tmp_path: Path, step: float, shared: bool) -> None:
    with Bundle.open(write(bundles.picture_contents(tmp_path), tmp_path / "out")) as bundle:
        bundle.__dict__["_program"] = Company(bundle._program, step)
        found = {proof.name: proof.ok for proof in prove(bundle)}
    assert found == {"files": True, "preprocessing": True, "golden examples": True, "shared calls": shared}
