"""The verbs that take a bundle, on a real one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import bundles

from hasten import cli
from hasten.bundle.read import Bundle
from hasten.bundle.write import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pictures`, a classifier; `tensors`, four inputs and three outputs; files to feed them with."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, contents in (("pictures", bundles.picture_contents), ("tensors", bundles.tensor_contents)):
        (folder / f"{name}-parts").mkdir()
        write(contents(folder / f"{name}-parts"), folder / name)
    for number, picture in enumerate(bundles.pictures(2)):
        (folder / f"{number}.png").write_bytes(picture)
    np.savez(
        folder / "four.npz",
        left=np.ones((2, 3), np.float32),
        right=np.full((2, 3), 2, np.float32),
        ids=np.array([3, 4]),
        flags=np.array([[True, False]] * 2),
    )
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.main(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_verify_passes_what_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify", "pictures", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["ok"]
    assert [proof["name"] for proof in document["proofs"]] == ["files", "preprocessing", "golden examples", "shared calls"]


def test_verify_names_the_file_whose_bit_flipped_and_exits_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    damaged = shutil.copytree("pictures", tmp_path / "damaged")
    content = bytearray((damaged / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "model.onnx").write_bytes(content)
    code, out, _ = run(capsys, "verify", str(damaged))
    assert code == 2
    assert any(line.startswith("NO  model.onnx") for line in out.splitlines())


def test_predict_shows_the_classes_of_each_picture(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "predict", "pictures", "0.png", "1.png", "--top", "2", "--json")
    assert code == 0
    samples = json.loads(out)["samples"]
    with Bundle.open(Path("pictures")) as bundle:
        expected = bundle.classify([Path("0.png").read_bytes(), Path("1.png").read_bytes()], top=2)
    assert [sample["input"] for sample in samples] == ["0.png", "1.png"]
    assert [[c["label"] for c in sample["classes"]] for sample in samples] == [[g.label for g in best] for best in expected]
    assert "0.png" in run(capsys, "predict", "pictures", "0.png")[1]


def test_predict_takes_named_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "predict", "tensors", "four.npz", "--json")
    assert code == 0
    assert [sample["outputs"] for sample in json.loads(out)["samples"]] == [
        {"total": [3.0, 3.0, 3.0], "count": 6, "same": [True, False]},
        {"total": [3.0, 3.0, 3.0], "count": 8, "same": [True, False]},
    ]
    assert "total" in run(capsys, "predict", "tensors", "four.npz")[1]


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["pictures", "none.png"], "cannot be read (No such file or directory)"),
        (["pictures", "."], "cannot be read (Is a directory)"),
        (["pictures", "pictures/manifest.json"], "error: picture: "),
        (["tensors", "four.npz", "0.png"], "must be pictures, or one .npz or .npy file"),
        (["tensors", "none.npz"], "cannot be read (No such file or directory)"),
        (["tensors", "text.npy"], "must be an array of numbers"),
    ],
)
def test_predict_refuses_what_it_cannot_read_in_one_line(capsys: pytest.CaptureFixture[str], args: list[str], part: str) -> None:
    Path("text.npy").write_text("no array")
    code, out, err = run(capsys, "predict", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert part in err


def test_bench_times_each_against_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "bench", "pictures", "--against", "pictures-parts/model.onnx", "--seconds", "0.5", "--threads", "1", "--json"
    )
    assert code == 0
    document = json.loads(out.splitlines()[-1])
    assert [row["name"] for row in document["rows"]] == ["pictures", "pictures-parts/model.onnx"]
    assert document["rows"][0]["speedup"] is None
    assert document["rows"][1]["speedup"]["low"] <= document["rows"][1]["speedup"]["value"] <= document["rows"][1]["speedup"]["high"]
    assert all(row["size_bytes"] > 0 and row["latency"]["value"] > 0 for row in document["rows"])


def test_bench_refuses_what_is_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "bench", "pictures", "0.png")
    assert code == 2
    assert err.splitlines()[-1] == "error: bench: must be given bundle folders and .onnx files, but got '0.png'."


def test_serve_refuses_a_damaged_bundle(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    damaged = shutil.copytree("pictures", tmp_path / "damaged")
    (damaged / "golden.npz").unlink()
    code, _, err = run(capsys, "serve", str(damaged), "--port", "0")
    assert (code, err) == (2, "error: golden.npz: is missing. Copy the bundle again.\n")
