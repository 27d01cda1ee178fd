"""The drift watch of a running server, as Prometheus sees it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")

import bundles
import serving

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.serve import drift
from hasten.serve.app import create_app


def made(folder: Path, *, certified: bool = True) -> Bundle:
    """The picture classifier, certified with 300 pictures, or as bundles were before there was a drift watch."""
    contents = bundles.picture_contents(folder)
    if certified:
        inputs = {"pixels": bundles.PREPROCESS(bundles.pictures(300, seed=1))}
        program = contents.runtime.load(contents.program, contents.target)
        changes = {"certify_inputs": inputs, "certify_outputs": program.run(inputs)}
        contents = type(contents)(**{**vars(contents), **changes})
    return Bundle.open(write(contents, folder / "out"))


def gauges(url: str) -> dict[str, float]:
    """Of the drift watch: by name, or name and feature."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = [re.fullmatch(r'hasten_drift_(\w+)\{(?:feature="(.+?)",)?model=.+?\} (\S+)', line) for line in lines if line[0] != "#"]
    return {f"{m[1]} {m[2]}" if m[2] else m[1]: float(m[3]) for m in found if m}


def darker(picture: bytes) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) // 3).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("dark", [False, True])
def test_darker_pictures_raise_the_alarm_and_the_usual_ones_do_not(dark: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift.Drift.__init__, "__kwdefaults__", {**drift.Drift.__init__.__kwdefaults__, "interval": 0.0, "window": 200})
    with serving.here(create_app(made(tmp_path))) as (_, url), httpx.Client() as client:
        assert gauges(url) == {"window_samples": 0.0}, "the warm-up is not looked at"
        for picture in bundles.pictures(260, seed=2):
            body = darker(picture) if dark else picture
            assert client.post(f"{url}/v1/predict", content=body, headers={"content-type": "image/png"}).status_code == 200
        found = gauges(url)
    alarms = {name: value for name, value in found.items() if name.startswith("alarm ")}
    assert len(alarms) == 8, "three channels with mean and spread, the class and its probability"
    assert (alarms["alarm pixels[0] mean"], any(alarms.values())) == (float(dark), dark)
    assert all(found[name.replace("alarm", "floor_bits")] > 0 for name in alarms)


def test_a_bundle_that_cannot_tell_serves_and_says_nothing(tmp_path: Path) -> None:
    bundle = made(tmp_path, certified=False)
    assert bundle.distribution is None
    with serving.here(create_app(bundle)) as (_, url):
        picture = bundles.pictures(1)[0]
        assert httpx.post(f"{url}/v1/predict", content=picture, headers={"content-type": "image/png"}).status_code == 200
        assert gauges(url) == {}


def test_it_looks_at_one_sample_of_a_call_and_not_more_often_than_is_said(tmp_path: Path) -> None:
    now = [0.0]
    watch = drift.Drift(made(tmp_path), interval=1.0, clock=lambda: now[0])
    run = watch.watching(lambda inputs: {"scores": np.zeros((len(inputs["pixels"]), bundles.CLASSES), np.float32)})
    inputs = {"pixels": np.zeros((16, 3, bundles.SIDE, bundles.SIDE), np.float32)}
    for at in (0.0, 0.4, 0.9, 1.0, 1.5):
        now[0] = at
        run(inputs)
    watch.close()
    assert watch.state.samples == 2
