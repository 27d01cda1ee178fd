"""`pip install .` without extras verifies, predicts, times and serves a bundle, and says what to install for the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import bundles

from hasten.bundle.write import write
from hasten.core.need import EXTRA_OF

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, its ONNX model, a picture and a set of tensors: made here, where everything is installed."""
    folder = tmp_path_factory.mktemp("plain")
    write(bundles.picture_contents(folder), folder / "bundle")
    (folder / "picture.png").write_bytes(bundles.pictures(1)[0])
    np.savez(folder / "data.npz", pixels=np.random.default_rng(0).random((40, 3, bundles.SIDE, bundles.SIDE), dtype=np.float32))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment that holds hasten and its base dependencies, in the versions of constraints.txt."""
    home = tmp_path_factory.mktemp("venv") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=300)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(ROOT)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=1200, env=_surroundings())
    assert done.returncode == 0, done.stderr[-3000:]
    return home / "bin"


def _surroundings() -> dict[str, str]:
    """This process's environment without the way to the checkout's own sources."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _hasten(plain: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(plain / "hasten"), *args], cwd=folder, capture_output=True, text=True, timeout=300, env=_surroundings())


def test_no_extra_is_there(plain: Path, folder: Path) -> None:
    code = f"import importlib.util as u; print([p for p in {sorted(EXTRA_OF)!r} if u.find_spec(p)])"
    done = subprocess.run([str(plain / "python"), "-c", code], cwd=folder, capture_output=True, text=True, check=True, env=_surroundings())
    assert done.stdout.strip() == "[]"


def test_it_is_the_installed_package_with_its_templates(plain: Path, folder: Path) -> None:
    code = "import hasten, pathlib; p = pathlib.Path(hasten.__file__).parent; print(p, *p.rglob('*.j2'), *p.glob('py.typed'))"
    done = subprocess.run([str(plain / "python"), "-c", code], cwd=folder, capture_output=True, text=True, env=_surroundings())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(plain.parent))
    assert ".j2" in done.stdout
    assert "py.typed" in done.stdout


def test_it_verifies(plain: Path, folder: Path) -> None:
    done = _hasten(plain, folder, "verify", "bundle", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {proof["name"] for proof in json.loads(done.stdout)["proofs"]} == {"files", "preprocessing", "golden examples", "shared calls"}


def test_it_predicts(plain: Path, folder: Path) -> None:
    done = _hasten(plain, folder, "predict", "bundle", "picture.png", "--json")
    assert done.returncode == 0, done.stderr
    (sample,) = json.loads(done.stdout)["samples"]
    assert sample["classes"][0]["label"] in bundles.LABELS


def test_it_times_a_bundle_against_an_onnx_file(plain: Path, folder: Path) -> None:
    done = _hasten(plain, folder, "bench", "bundle", "--against", "model.onnx", "--seconds", "1", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["name"] for row in rows] == ["bundle", "model.onnx"]
    assert all(row["latency"]["value"] > 0 for row in rows)


def test_it_serves(plain: Path, folder: Path) -> None:
    with _server(plain, folder) as url:
        request = urllib.request.Request(
            f"{url}/v1/predict", data=(folder / "picture.png").read_bytes(), headers={"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.loads(response.read())
    said = json.loads(_hasten(plain, folder, "predict", "bundle", "picture.png", "--json").stdout)["samples"][0]
    assert said["classes"][0]["label"] in json.dumps(answer)


PAST_THE_BASE = [
    ["optimize", "model.onnx", "--data", "data.npz"],
    ["report", "bundle"],
    ["serve", "bundle", "--port", "0", "--grpc-port", "0"],
]


@pytest.mark.parametrize("verb", PAST_THE_BASE)
def test_what_needs_more_says_what_to_install(plain: Path, folder: Path, verb: list[str]) -> None:
    done = _hasten(plain, folder, *verb)
    assert done.returncode == 4, done.stdout + done.stderr
    assert 'pip install "hasten[' in done.stderr.splitlines()[-1]


@contextmanager
def _server(plain: Path, folder: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [str(plain / "hasten"), "serve", "bundle", "--port", "0"], cwd=folder, stdout=subprocess.PIPE, text=True, env=_surroundings()
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
