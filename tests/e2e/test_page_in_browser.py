"""The server's page in a real browser: what a person does with it works, and it asks nobody but its server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")

import browser
import bundles
import serving

from hasten.bundle.read import Bundle
from hasten.bundle.write import Contents, write
from hasten.serve import drift
from hasten.serve.app import create_app

pytestmark = [
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium on PATH: `apt-get install chromium` brings it"),
    pytest.mark.slow,
]


@contextmanager
def opened(*made: Bundle, names: tuple[str, ...] = ()) -> Iterator[tuple[browser.Tab, str]]:
    """The page of a server of these bundles."""
    with serving.here(create_app(*made, names=names)) as (_, url), browser.tab(url) as tab:
        yield tab, url
        tab.run("1")  # so that what it heard before is in its lists
        assert tab.problems == []
        assert [asked for asked in tab.asked if not asked.startswith((url, "blob:", "data:"))] == []


def pictures(folder: Path, **changes: object) -> Bundle:
    folder.mkdir(exist_ok=True)
    return Bundle.open(write(replace(bundles.picture_contents(folder), **changes), folder / "out"))


def certified(folder: Path) -> Contents:
    """The picture classifier with what 300 certified pictures look like."""
    contents = bundles.picture_contents(folder)
    inputs = {"pixels": bundles.PREPROCESS(bundles.pictures(300, seed=1))}
    program = contents.runtime.load(contents.program, contents.target)
    return replace(contents, certify_inputs=inputs, certify_outputs=program.run(inputs))


ANSWER = "document.querySelector('#answer').textContent"


def test_a_chosen_picture_is_classified(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(bundles.pictures(1)[0])
    bundle = pictures(tmp_path / "parts")
    with opened(bundle) as (tab, _):
        tab.run("document.querySelector('#send').click()")
        tab.until(f"{ANSWER} === 'choose a picture first'")
        tab.choose("#file", picture)
        tab.run("document.querySelector('#send').click()")
        tab.until("document.querySelectorAll('#answer tr').length === 5")
        rows = tab.run(
            "[...document.querySelectorAll('#answer tr')].map(row => [row.cells[0].textContent, row.querySelector('meter').value])"
        )
        assert tab.run("document.querySelector('#shown').naturalWidth") > 0
        assert "ms, there and back" in tab.run("document.querySelector('#took').textContent")
    with bundle:
        (expected,) = bundle.classify([picture.read_bytes()], top=5)
    assert [label for label, _ in rows] == [guess.label for guess in expected]
    assert [score for _, score in rows] == pytest.approx([guess.score for guess in expected], rel=1e-5)


def test_a_picture_of_the_camera_is_classified_and_the_camera_is_let_go(tmp_path: Path) -> None:
    with opened(pictures(tmp_path / "parts")) as (tab, _):
        tab.run("document.querySelector('#camera').click()")
        tab.until("document.querySelector('#video').videoWidth > 0")
        tab.run("window.track = document.querySelector('#video').srcObject.getTracks()[0]; document.querySelector('#shoot').click()")
        tab.until("document.querySelectorAll('#answer tr').length === 5")
        assert tab.run("window.track.readyState") == "ended"
        assert tab.run("document.querySelector('#video').hidden")


def test_a_row_is_typed(tmp_path: Path) -> None:
    bundle = Bundle.open(write(bundles.null_contents(tmp_path), tmp_path / "out"))
    with opened(bundle) as (tab, _):
        assert tab.run("document.querySelector('#row').value") == "1, 1", "a certified sample"
        for text, expected in (("1, two", "two is no number"), ("3; 4.5", '"y": [')):
            tab.run(f"document.querySelector('#row').value = '{text}'; document.querySelector('#send').click()")
            tab.until(f"{ANSWER}.includes('{expected}')")
        tab.run("document.querySelector('#row').value = '1, 2, 3'; document.querySelector('#send').click()")
        tab.until(f"{ANSWER}.includes('must')")
        tab.problems = [problem for problem in tab.problems if "400" not in problem]  # the browser's own word for that answer


def test_several_inputs_start_with_a_certified_sample(tmp_path: Path) -> None:
    bundle = Bundle.open(write(bundles.tensor_contents(tmp_path), tmp_path / "out"))
    with opened(bundle) as (tab, _):
        tab.run("document.querySelector('#send').click()")
        tab.until(f"{ANSWER}.includes('total')")
        assert tab.run(f"JSON.parse({ANSWER}).outputs.count") == [0]


def test_versions_latency_and_drift_are_shown_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = drift.Drift.__init__.__kwdefaults__
    monkeypatch.setattr(drift.Drift.__init__, "__kwdefaults__", {**defaults, "interval": 0.0, "window": 100})
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old = pictures(tmp_path / "old")
    new = Bundle.open(write(certified(tmp_path / "new"), tmp_path / "new" / "out"))
    with opened(old, new, names=("toy", "toy")) as (tab, url):
        tab.until("document.querySelectorAll('#versions tr').length === 2")
        assert tab.run("document.querySelector('#drift').textContent") == "not known yet: 0 samples seen."
        with httpx.Client() as client:
            for picture in bundles.pictures(130, seed=2):
                done = client.post(f"{url}/v1/predict", content=_darker(picture), headers={"content-type": "image/png"})
                assert done.status_code == 200
        tab.until("document.querySelector('#drift').textContent.startsWith('Requests or answers differ')")
        assert "pixels[0] mean" in tab.run("document.querySelector('#features').textContent")
        tab.until("document.querySelector('#curve').getAttribute('points') !== ''")
        tab.send("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        assert tab.run("document.documentElement.scrollWidth") <= 390, "it fits a phone"


def test_a_bundle_that_cannot_tell_shows_unknown_drift(tmp_path: Path) -> None:
    with opened(pictures(tmp_path / "parts")) as (tab, _):
        tab.until("document.querySelector('#drift').textContent.startsWith('unknown')")


def test_what_a_bundle_says_of_itself_is_text_and_nothing_else(tmp_path: Path) -> None:
    evil = "</script><script>window.taken = true</script>"
    answer = {**bundles.ANSWER, "reason": evil}
    with opened(pictures(tmp_path / "parts", answer=answer, labels=tuple(f"{evil}{k}" for k in range(bundles.CLASSES)))) as (tab, _):
        assert evil in tab.run("document.body.textContent")
        picture = tmp_path / "picture.png"
        picture.write_bytes(bundles.pictures(1)[0])
        tab.choose("#file", picture)
        tab.run("document.querySelector('#send').click()")
        tab.until("document.querySelectorAll('#answer tr').length === 5")
        assert tab.run("window.taken === undefined")


def _darker(picture: bytes) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) // 3).save(buffer, "PNG")
    return buffer.getvalue()
