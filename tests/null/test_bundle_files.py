"""A bundle is there as a whole or not at all, and nothing in it is believed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest

from hasten.bundle import layout
from hasten.bundle.manifest import Manifest
from hasten.bundle.read import Bundle
from hasten.bundle.verify import Proof, verify
from hasten.bundle.write import add_file, write
from hasten.core.digest import digest_json
from hasten.core.errors import BundleError, DataError, JobError, NotPossibleHere


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(bundles.null_contents(tmp_path), tmp_path / "out")


def failed(path: Path) -> dict[str, str]:
    return {proof.name: proof.sentence for proof in verify(path) if not proof.ok}


def tampered(bundle: Path, **changes: Any) -> None:
    """Another manifest, with a digest that fits: as someone would make it who wants to be believed."""
    content = json.loads((bundle / layout.MANIFEST).read_text())
    content.pop("digest")
    content |= changes
    (bundle / layout.MANIFEST).write_text(json.dumps({**content, "digest": digest_json(content)}))


def test_manifest_lists_every_file_but_itself(bundle: Path) -> None:
    files = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert files - set(Bundle.open(bundle).manifest.files) == {layout.MANIFEST}
    assert failed(bundle) == {}


def test_what_was_put_in_comes_out(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.answer == bundles.ANSWER
    assert [line["kind"] for line in opened.evidence] == ["run", "answer"]
    assert opened.front == [{"id": "a"}]
    assert opened.name == "toy-model"
    assert opened.runtime.name == "null"
    assert opened.predict(np.ones((3, 2), np.float32))["y"].shape == (3, 3)


def test_nan_in_evidence_becomes_null(tmp_path: Path) -> None:
    lines = [{"kind": "measurement", "samples": [1.0, float("nan"), np.float32(2)]}]
    out = write(bundles.null_contents(tmp_path, evidence=lines), tmp_path / "out")
    assert Bundle.open(out).evidence[0]["samples"] == [1.0, None, 2.0]


@pytest.mark.parametrize("name", ["program/signature.json", layout.GOLDEN, layout.EVIDENCE, layout.FRONT, layout.CARD])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_verify_names_the_harmed_file_and_does_not_run_the_program(bundle: Path, name: str, harm: str) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "truncate":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    words = {"flip": "sha256", "truncate": "truncated", "remove": "missing"}
    found = failed(bundle)
    assert set(found) == {name, "golden examples"}
    assert words[harm] in found[name]
    assert "not run" in found["golden examples"]


def test_program_of_changed_files_is_not_loaded(bundle: Path) -> None:
    with (bundle / "program/signature.json").open("a") as file:
        file.write(" ")
    with pytest.raises(BundleError, match=r"program/signature\.json: must have \d+ bytes, but has \d+: it was truncated or changed"):
        Bundle.open(bundle).program()


def test_file_that_was_added_to_the_program_is_found(bundle: Path) -> None:
    (bundle / "program/model.onnx.data").write_bytes(b"x")
    assert failed(bundle)["program/model.onnx.data"] == "was added after the bundle was written"
    with pytest.raises(BundleError, match=r"program/model\.onnx\.data: was added after"):
        Bundle.open(bundle).program()


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_flipped_bit_in_the_manifest_is_refused(bundle: Path, place: int) -> None:
    path = bundle / layout.MANIFEST
    content = bytearray(path.read_bytes())
    content[len(content) * place // 100] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"manifest\.json: must be JSON \(.*\)\. It may be truncated: copy the bundle again\."),
        ("[]", r"manifest\.json: must be a JSON object, but got 'list'\."),
        ("{}", r"manifest\.json: must hold schema_version, a whole number, but got None\."),
        ("\x00\xff", r"manifest\.json: must be JSON"),
        ("[" * 100_000, r"manifest\.json: must be JSON"),
    ],
)
def test_manifest_that_is_none_is_refused(bundle: Path, content: str, message: str) -> None:
    (bundle / layout.MANIFEST).write_bytes(content.encode("latin1"))
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_newer_schema_says_upgrade(bundle: Path) -> None:
    tampered(bundle, schema_version=layout.SCHEMA_VERSION + 1)
    with pytest.raises(BundleError, match="newer hasten: `pip install --upgrade hasten`"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "program/../../x", "a\\..\\b", "", ".", "program//x", "./x", "a\x00b"])
def test_no_path_may_leave_the_folder(bundle: Path, name: str) -> None:
    files = json.loads((bundle / layout.MANIFEST).read_text())["files"]
    tampered(bundle, files={**files, name: files[layout.GOLDEN]})
    with pytest.raises(BundleError, match="must name only files inside the bundle"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["program", "program/signature.json", layout.GOLDEN])
def test_links_are_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="must not be a link or lie behind one"):
        Bundle.open(bundle)


def test_wrong_field_is_named(bundle: Path) -> None:
    tampered(bundle, target={"threads": 0, "batch_size": 1, "device": "cpu"})
    with pytest.raises(BundleError, match=r"manifest\.json target\.threads: input should be greater than 0"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ({"name": "abacus", "knobs": {}, "versions": {}}, "runtime: must be one of .*, but got 'abacus'"),
        ({"name": "null", "knobs": {"beads": 3}, "versions": {}}, "runtime: null does not take these knobs"),
    ],
)
def test_unknown_runtime_and_knob_are_named(bundle: Path, runtime: dict[str, Any], message: str) -> None:
    tampered(bundle, runtime=runtime)
    with pytest.raises(BundleError, match=message):
        _ = Bundle.open(bundle).runtime


def test_no_bundle_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="bundle: must be a folder"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"bundle: must hold manifest\.json"):
        Bundle.open(tmp_path)


def test_other_outputs_than_certified_are_found(tmp_path: Path) -> None:
    made = bundles.null_contents(tmp_path)
    made.golden_outputs["y"][2, 1] = 1.0  # type: ignore[index]  # as if another machine had computed it
    proof = next(p for p in verify(write(made, tmp_path / "out")) if p.name == "golden examples")
    assert not proof.ok
    assert "differ by 1 of the largest; at most 0.0001 may be on the machine" in proof.sentence


def test_tolerance_is_wider_on_another_machine(bundle: Path) -> None:
    here = next(p for p in verify(bundle) if p.name == "golden examples").sentence
    tampered(bundle, machine={"id": "another", "text": "another"})
    there = next(p for p in verify(bundle) if p.name == "golden examples").sentence
    assert ("0.0001" in here, "0.001" in there) == (True, True)


def test_a_bundle_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    made = bundles.null_contents(tmp_path)
    out = write(made, tmp_path / "place" / "out")
    (out / "program" / "stale").write_text("old")
    write(made, out)
    assert failed(out) == {}
    assert os.listdir(out.parent) == ["out"]


def test_a_damaged_bundle_may_be_replaced(bundle: Path, tmp_path: Path) -> None:
    tampered(bundle, schema_version=99)
    (tmp_path / "program" / "signature.json").unlink()
    (tmp_path / "program").rmdir()
    write(bundles.null_contents(tmp_path), bundle)
    assert failed(bundle) == {}


def test_an_empty_folder_is_filled_and_another_one_refused(tmp_path: Path) -> None:
    made = bundles.null_contents(tmp_path)
    (tmp_path / "empty").mkdir()
    assert failed(write(made, tmp_path / "empty")) == {}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"meow")
    with pytest.raises(JobError, match=r"out: must be a new or empty folder, or a bundle to replace, but got .*photos"):
        write(made, tmp_path / "photos")
    assert (tmp_path / "photos/cat.jpg").read_bytes() == b"meow"
    with pytest.raises(JobError, match="out: must be a folder"):
        write(made, tmp_path / "photos/cat.jpg")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    made = bundles.null_contents(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotPossibleHere, match=r"out: cannot be written \(.*\), but got .*Free space, or name another place\.") as caught:
        write(made, tmp_path / "file" / "out")
    assert "\n" not in str(caught.value)


def test_a_write_that_fails_half_way_leaves_the_old_bundle(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / layout.MANIFEST).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "again").mkdir()
    with pytest.raises(NotPossibleHere, match="No space left on device"):
        write(bundles.null_contents(tmp_path / "again"), bundle)
    assert (bundle / layout.MANIFEST).read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".out-")]


def test_an_added_file_is_listed_and_checked(bundle: Path) -> None:
    add_file(bundle, layout.REPORT, "<html>first</html>")
    add_file(bundle, layout.REPORT, "<html>second</html>")
    assert Bundle.open(bundle).file(layout.REPORT).read_text() == "<html>second</html>"
    assert failed(bundle) == {}
    (bundle / layout.REPORT).write_text("<html>forged</html>")
    assert layout.REPORT in failed(bundle)


@pytest.mark.parametrize("name", ["../report.html", "program/x", "manifest.json"])
def test_no_file_is_added_elsewhere(bundle: Path, name: str) -> None:
    with pytest.raises(BundleError):
        add_file(bundle, name, "text")
    assert failed(bundle) == {}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"z": np.ones((1, 2), np.float32)}, "input 'z': must be one of the model's inputs x"),
        (np.ones((1, 3), np.float32), r"input 'x': must have shape \(N, 2\)"),
        (np.ones((0, 2), np.float32), "inputs: must hold at least one sample"),
        ([[1.0, 2.0], [3.0]], "input 'x': must be a tensor whose rows all have the same length"),
        ([[1.0, float("nan")]], "input 'x': must be finite"),
        (["a"], "input 'x': must have 2 axes"),
        ([b"picture"], "input 'x': must be a tensor: this model has no preprocessing for pictures"),
    ],
)
def test_wrong_inputs_are_named(bundle: Path, inputs: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Bundle.open(bundle).predict(inputs)


def test_manifest_round_trips(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert all(isinstance(proof, Proof) for proof in verify(bundle))


def test_model_card_tells_the_numbers(bundle: Path) -> None:
    card = (bundle / layout.CARD).read_text()
    assert "**passed**" in card
    assert "8.1x (8x to 8.2x)" in card
    assert "0.10 points (-0.10 points to 0.30 points), 900 samples" in card
    assert "None" not in card
