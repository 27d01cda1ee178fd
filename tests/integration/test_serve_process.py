"""The server as a process of its own: it says where it listens, answers, and stops when told to."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import bundles
import httpx
import pytest
import serving

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core.errors import BundleError, JobError, NotPossibleHere
from hasten.serve.options import ServeOptions
from hasten.serve.run import serve

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    return write(bundles.picture_contents(folder), folder / "out")


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_server_answers_what_the_bundle_computes_and_stops_in_order(bundle: Path, kind: signal.Signals) -> None:
    picture = bundles.pictures(1, seed=8)[0]
    with serving.process(bundle) as (process, (url,)):
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=30) as reply:
            assert json.load(reply) == {"ready": True}
        request = urllib.request.Request(f"{url}/v1/predict", data=picture, headers={"content-type": "image/png"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            answer = json.load(reply)
        process.send_signal(kind)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "stopped\n", "")
    guess = Bundle.open(bundle).classify(picture)[0][0]
    assert (answer["label"], answer["score"]) == (guess.label, guess.score)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order_whatever_its_runtime_does_to_signals(tmp_path: Path, kind: signal.Signals) -> None:
    """OpenVINO gives the main thread a stack for signals, and takes it away when its program goes: the next signal was the last."""
    pytest.importorskip("openvino")
    out = write(bundles.picture_contents(tmp_path, runtime_name="openvino"), tmp_path / "out")
    with subprocess.Popen([sys.executable, "-m", "hasten", "serve", str(out), "--port", "0"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("http://")
        child.send_signal(kind)
        assert child.wait(30) == 0


def test_port_in_use_is_one_line(bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NotPossibleHere) as caught:
            serve(bundle, options=ServeOptions(port=port))
    assert str(caught.value) == f"--port: {port} is in use on 127.0.0.1. Name another one; 0 takes any free one."


def test_nobody_writes_to_standard_error_by_asking_wrongly(bundle: Path, tmp_path: Path) -> None:
    """It may be a pipe that nobody reads: then the server would stand still when it is full."""
    form = {"content-type": "multipart/form-data; boundary=x"}
    log = tmp_path / "access.log"
    with serving.process(bundle, access_log=str(log)) as (process, (url,)):
        at = httpx.URL(url)
        for data in (
            b"\x00\r\n\r\n",
            b"GET\xff / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ):
            with socket.create_connection((at.host, at.port), timeout=30) as connection:
                connection.sendall(data)
                assert connection.recv(100)
        assert httpx.post(f"{url}/api/v1/classify", content=b"{no form", headers=form).status_code == 400
        assert httpx.post(f"{url}/api/v1/classify", content=b"{", headers={"content-type": "application/json"}).status_code == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert [line["status"] for line in map(json.loads, log.read_text().splitlines())].count(400) == 4


def test_wrong_port_and_host_are_named(bundle: Path) -> None:
    with pytest.raises(JobError, match="--port: must be from 0"):
        serve(bundle, options=ServeOptions(port=70_000))
    with pytest.raises(JobError, match="--host: must be an address of this machine"):
        serve(bundle, options=ServeOptions(host="no such host"))
    with pytest.raises(NotPossibleHere, match=r"--host: cannot listen on 192\.0\.2\.1"):
        serve(bundle, options=ServeOptions(host="192.0.2.1", port=0))


def test_changed_bundle_is_not_served(tmp_path: Path) -> None:
    out = write(bundles.picture_contents(tmp_path), tmp_path / "out")
    with (out / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"model\.onnx: must have \d+ bytes"):
        serve(out, options=ServeOptions(port=0))
