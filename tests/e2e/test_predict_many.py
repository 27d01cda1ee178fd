"""`hasten predict --many`: every row once, whatever kills it, and errors beside the rows that have them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import bundles

from hasten import cli
from hasten.batch import sources
from hasten.bundle.read import Bundle
from hasten.bundle.write import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pictures` and `tensors`, bundles; `many`, 40 pictures in two folders."""
    folder = tmp_path_factory.mktemp("many")
    for name, contents in (("pictures", bundles.picture_contents), ("tensors", bundles.tensor_contents)):
        (folder / f"{name}-parts").mkdir()
        write(contents(folder / f"{name}-parts"), folder / name)
    for number, picture in enumerate(bundles.pictures(40)):
        place = folder / "many" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02d}.png").write_bytes(picture)
    return folder


def many(capsys: pytest.CaptureFixture[str], *args: Path | str) -> dict[str, Any]:
    assert cli.main(["predict", str(args[0]), "--many", *map(str, args[1:]), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def rows(out: Path) -> dict[str, np.ndarray]:
    """All parts, one after the other."""
    parts = [dict(np.load(out / line["part"])) for line in json.loads((out / "manifest.json").read_text())["parts"]]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_each_picture_is_answered_once_as_it_is_alone(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = many(capsys, folder / "pictures", folder / "many", tmp_path / "out")
    assert (document["rows"], document["failed"]) == (40, 0)
    found = rows(tmp_path / "out")
    files = sorted((folder / "many").rglob("*.png"))
    assert found["input"].tolist() == [path.relative_to(folder / "many").as_posix() for path in files]
    with Bundle.open(folder / "pictures") as bundle:
        np.testing.assert_allclose(found["scores"], bundle.predict([p.read_bytes() for p in files])["scores"], rtol=1e-4, atol=1e-5)
        alone = [bundle.classify([path.read_bytes()], top=1)[0][0] for path in files]
    assert found["label"].tolist() == [guess.label for guess in alone]


def test_what_cannot_be_read_has_its_error_and_the_others_their_answers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for number, picture in enumerate(bundles.pictures(5)):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"no picture" if number in (1, 3) else picture)
    (tmp_path / "in" / "broken.npz").write_bytes(b"no arrays")
    document = many(capsys, folder / "pictures", tmp_path / "in", tmp_path / "out", "--format", "jsonl")
    assert (document["rows"], document["failed"]) == (6, 3)
    lines = [json.loads(x) for line in document["parts"] for x in (tmp_path / "out" / line["part"]).read_text().splitlines()]
    by_name = {line["input"]: line for line in lines}
    assert [name for name, line in sorted(by_name.items()) if line["error"]] == ["1.png", "3.png", "broken.npz"]
    assert "picture" in by_name["1.png"]["error"]
    assert by_name["1.png"]["scores"] == [None] * bundles.CLASSES
    with Bundle.open(folder / "pictures") as bundle:
        assert by_name["4.png"]["scores"] == pytest.approx(bundle.predict([bundles.pictures(5)[4]])["scores"][0].tolist(), rel=1e-4)


def test_tables_of_every_kind_give_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import csv, parquet

    (tmp_path / "parts").mkdir()
    bundle = write(bundles.null_contents(tmp_path / "parts"), tmp_path / "null")
    values = np.random.default_rng(0).normal(size=(10_000, 2)).astype(np.float32)
    place = tmp_path / "in"
    place.mkdir()
    np.save(place / "a.npy", values)
    np.savez(place / "b.npz", x=values)
    csv.write_csv(pyarrow.table({"p": values[:, 0], "q": values[:, 1]}), place / "c.csv")
    parquet.write_table(
        pyarrow.table({"x": values.tolist()}, schema=pyarrow.schema({"x": pyarrow.list_(pyarrow.float32())})), place / "d.parquet"
    )
    document = many(capsys, bundle, place, tmp_path / "out")
    assert (document["rows"], document["failed"]) == (40_000, 0)
    assert Counter(line["unit"] for line in document["parts"]) == {0: 3, 1: 3, 2: 3, 3: 3}
    found = rows(tmp_path / "out")
    for name in ("a.npy", "b.npz", "c.csv", "d.parquet"):
        assert found["row"][found["input"] == name].tolist() == list(range(10_000))
    assert found["y"].shape == (40_000, 3)


def test_named_tensors_stay_together(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = sources.ROWS + 5
    left = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    np.savez(tmp_path / "in.npz", left=left, right=-left, ids=np.arange(count), flags=np.zeros((count, 2), bool))
    many(capsys, folder / "tensors", tmp_path / "in.npz", tmp_path / "out")
    found = rows(tmp_path / "out")
    assert (found["count"] == 2 * np.arange(count)).all()
    assert (found["total"] == 0).all()


def test_killed_again_and_again_it_answers_every_row_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL after each few parts, at whatever it is just doing; what was finished is not computed again."""
    (tmp_path / "parts").mkdir()
    bundle = write(bundles.null_contents(tmp_path / "parts"), tmp_path / "null")
    (tmp_path / "in").mkdir()
    for name in "abcdef":
        np.save(tmp_path / "in" / f"{name}.npy", np.ones((4 * sources.ROWS, 2), np.float32))
    out, journal, finished = tmp_path / "out", tmp_path / "out" / "journal.jsonl", 0
    kept: dict[str, int] = {}
    for wanted in (3, 10, 17):
        process = subprocess.Popen([sys.executable, "-m", "hasten", "predict", str(bundle), "--many", str(tmp_path / "in"), str(out)])
        while finished < wanted and process.poll() is None:
            finished = len(journal.read_text().splitlines()) if journal.exists() else 0
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
        lines = [line for line in journal.read_text().splitlines() if line.endswith("}")]
        kept = {json.loads(line)["part"]: (out / json.loads(line)["part"]).stat().st_mtime_ns for line in lines}
    with journal.open("a") as file:
        file.write('{"part": "torn')  # as a machine that lost its power leaves it
    (out / ".part-000005-000000.npz-half").write_bytes(b"half")

    document = many(capsys, bundle, tmp_path / "in", out)
    assert document["rows"] == 6 * 4 * sources.ROWS
    found = rows(out)
    assert set(Counter(zip(found["input"].tolist(), found["row"].tolist(), strict=True)).values()) == {1}
    assert {path.name for path in out.glob("part-*")} == {line["part"] for line in document["parts"]}
    assert list(out.glob(".part*")) == []
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    again = many(capsys, bundle, tmp_path / "in", out)
    assert again == document, "nothing is left to do"


def test_a_part_that_was_damaged_is_computed_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = many(capsys, folder / "pictures", folder / "many", tmp_path / "out")
    part = tmp_path / "out" / document["parts"][0]["part"]
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    many(capsys, folder / "pictures", folder / "many", tmp_path / "out")
    assert {k: v.tolist() for k, v in np.load(part).items()}["row"] == [0] * 40


@pytest.mark.parametrize("change", ["input", "bundle", "format"])
def test_results_of_another_call_are_not_mixed(folder: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.npz").write_bytes(b"")
    many(capsys, folder / "pictures", tmp_path / "in", tmp_path / "out")
    if change == "input":
        (tmp_path / "in" / "b.npz").write_bytes(b"")
    bundle = folder / ("tensors" if change == "bundle" else "pictures")
    form = "jsonl" if change == "format" else "npz"
    assert cli.main(["predict", str(bundle), "--many", str(tmp_path / "in"), str(tmp_path / "out"), "--format", form]) == 2
    assert f"{change}s changed" in capsys.readouterr().err.replace(f"{change} changed", f"{change}s changed")


@pytest.mark.parametrize(
    ("places", "part"),
    [
        (["many"], "--many takes two places"),
        (["none", "out"], "must be a folder or a file that exists"),
        (["many", "many/out"], "must not lie within"),
        (["pictures-parts/program", "out"], "must hold files that end with"),
        (["many", "pictures"], "must be a new or empty folder"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, places: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(folder / "pictures"), "--many", *(str(folder / place) for place in places)]) == 2
    assert part in capsys.readouterr().err


def test_workers_want_many(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(folder / "pictures"), str(folder / "many" / "a" / "00.png"), "--workers", "ray"]) == 2
    assert "--workers needs --many" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["spark", "ray://", "ray://head"])
def test_workers_are_ray(folder: Path, tmp_path: Path, workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    places = [str(folder / "many"), str(tmp_path / "out")]
    assert cli.main(["predict", str(folder / "pictures"), "--many", *places, "--workers", workers]) == 2
    assert f"workers: must be ray or ray://host:port, but got '{workers}'." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_workers_want_ray(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    places = [str(folder / "many"), str(tmp_path / "out")]
    assert cli.main(["predict", str(folder / "pictures"), "--many", *places, "--workers", "ray"]) == 4
    assert 'pip install "hasten[ray]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
