"""What benchmarks/rivals.py does with a peer: one that fails is a sentence, and what was made once is not made again."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SHARED = Path(__file__).parents[2] / "benchmarks"
HEAD = "from _peer import Made, NotMade, main\n"


@pytest.fixture
def rivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with scripts that the test writes."""
    monkeypatch.syspath_prepend(str(SHARED))
    import rivals as module

    (tmp_path / "_peer.py").write_text((SHARED / "peers" / "_peer.py").read_text())
    monkeypatch.setattr(module, "SCRIPTS", tmp_path)
    monkeypatch.setattr(module, "PEERS", {"peer": module.Peer(script="script", variant="best")})
    return module


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    request = {
        "source": "model.py:model",
        "limit": 0.5,
        "inputs": ["x"],
        "output": "y",
        "threads": 1,
        "transformer": False,
        "saturates": True,
    }
    (folder / "request.json").write_text(json.dumps(request))
    (folder / "stamp").write_text("1")
    return folder


def made(rivals: ModuleType, inputs: Path, body: str, **options: Any) -> Any:
    """What comes of a script whose `make` has this body."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    (inputs.parent / "script.py").write_text(f"{HEAD}def make(request, variant):\n{lines}\nmain(make)\n")
    return rivals.make("peer", inputs, inputs.parent / "out", inputs.parent, **options)


PROGRAM = (
    "(request.out / 'model.onnx').write_text('a')\nreturn Made('model.onnx', 'onnxruntime', f'{variant}, {request.limit}', ('numpy',))"
)


def test_a_peer_is_told_what_is_asked_and_says_what_it_made(rivals: ModuleType, inputs: Path) -> None:
    one = made(rivals, inputs, PROGRAM)
    assert (one.program, one.runtime, one.settings) == ("model.onnx", "onnxruntime", "best, 0.5")
    assert "numpy" in one.versions


def test_a_crash_is_one_sentence_with_its_last_words(rivals: ModuleType, inputs: Path) -> None:
    one = made(rivals, inputs, "raise ValueError('no such operator')")
    assert one.program is None
    assert one.settings == "it ended with code 1: ValueError: no such operator"


def test_what_a_peer_says_it_cannot_do_is_kept(rivals: ModuleType, inputs: Path) -> None:
    assert made(rivals, inputs, "raise NotMade('nothing within the limit')").settings == "nothing within the limit"


def test_a_peer_that_takes_too_long_is_ended(rivals: ModuleType, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "LIMIT_SECONDS", 0.5)
    one = made(rivals, inputs, "import threading\nthreading.Event().wait()")
    assert one.program is None
    assert "took longer" in one.settings


def test_nothing_is_made_twice_until_the_script_or_the_inputs_change(rivals: ModuleType, inputs: Path) -> None:
    made(rivals, inputs, PROGRAM)
    mark = inputs.parent / "out" / "mark"
    mark.touch()
    made(rivals, inputs, PROGRAM)
    assert mark.exists()
    made(rivals, inputs, f"{PROGRAM}  # changed")
    assert not mark.exists()
    mark.touch()
    (inputs / "stamp").write_text("2")
    made(rivals, inputs, f"{PROGRAM}  # changed")
    assert not mark.exists()


def test_only_a_failure_is_tried_again(rivals: ModuleType, inputs: Path) -> None:
    flag = inputs.parent / "flag"
    body = f"import pathlib\nif not pathlib.Path({str(flag)!r}).exists(): raise NotMade('not yet')\n{PROGRAM}"
    assert made(rivals, inputs, body).program is None
    flag.touch()
    assert made(rivals, inputs, body).program is None
    assert made(rivals, inputs, body, retry=True).program == "model.onnx"
    (inputs.parent / "out" / "mark").touch()
    made(rivals, inputs, body, retry=True)
    assert (inputs.parent / "out" / "mark").exists()


def test_every_peer_has_its_script_and_its_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SHARED))
    import rivals

    for name, peer in rivals.PEERS.items():
        assert (SHARED / "peers" / f"{peer.script}.py").exists(), name
        assert peer.environment is None or (SHARED / "peers" / f"{peer.environment}.txt").exists(), name
