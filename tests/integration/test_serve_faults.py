"""What goes wrong around a server: every request that was sent whole has an answer, each answer is right, and the server lives on.

Killed replicas are in test_serve_replicas.py, bad new versions in test_serve_reload.py, half-closed connections in test_serve_hot.py.
"""

from __future__ import annotations

import io
import resource
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bundles
import httpx
import numpy as np
import psutil
import pytest
import serving
from faulty_runtime import FAIL
from faulty_server import INFER, ask, asked, outputs

from hasten.bundle.read import Bundle
from hasten.bundle.write import write

pytest.importorskip("prometheus_client", reason="pip install 'hasten[serve]'")
WAYS = pytest.mark.parametrize("options", [{}, {"isolate": True}], ids=["here", "replica"])


def large(width: int) -> tuple[np.ndarray, bytes]:
    """A sample of `width` numbers, and the request that wants as many back."""
    x = np.arange(width, dtype=np.float32)
    head = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,{width}],"parameters":{{"binary_data_size":{x.nbytes}}}}}],'
    head += '"outputs":[{"name":"y","parameters":{"binary_data":true}}]}'
    lines = [
        f"POST {INFER} HTTP/1.1",
        "host: x",
        f"content-length: {len(head) + x.nbytes}",
        f"inference-header-content-length: {len(head)}",
    ]
    return x, "\r\n".join([*lines, "", head]).encode() + x.tobytes()


def connected(url: str) -> socket.socket:
    at = httpx.URL(url)
    return socket.create_connection((at.host, at.port or 0), timeout=60)


@pytest.mark.slow
@WAYS
def test_a_client_that_reads_nothing_holds_up_nobody_and_costs_no_more_than_its_requests(faulty: Path, options: dict[str, Any]) -> None:
    """It has sent 30 requests of 4 MB each way, as many as the server takes; when it reads at last, what it reads is right."""
    x, request = large(1_000_000)
    with serving.process(f"m={faulty}", **options) as (process, (url,)), connected(url) as slow, ThreadPoolExecutor(1) as pool:
        assert outputs(ask(url, (1, 2))) == [2, 4]
        before = psutil.Process(process.pid).memory_info().rss
        sending = pool.submit(lambda: [slow.sendall(request) for _ in range(30)])
        serving.until(lambda: serving.metric(url, "hasten_requests_total", outcome="answered") > 1, "its first one is computed")
        for k in range(200):
            assert outputs(ask(url, (k, 1))) == [2 * k, 2]
        assert psutil.Process(process.pid).memory_info().rss < before + 20 * len(request)
        assert not sending.done()
        for _ in range(30):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += slow.recv(1)
            assert head.startswith(b"HTTP/1.1 200 ")
            fields = dict(line.split(": ") for line in head.decode().lower().split("\r\n")[1:-2])
            body = bytearray()
            while more := int(fields["content-length"]) - len(body):
                body += slow.recv(min(more, 1 << 20))
            start = int(fields["inference-header-content-length"])
            np.testing.assert_array_equal(np.frombuffer(body[start:], np.float32), 2 * x)
        sending.result()


@pytest.mark.slow
@WAYS
def test_clients_that_neither_read_nor_send_do_not_keep_the_server_from_stopping(faulty: Path, options: dict[str, Any]) -> None:
    _, request = large(1_000_000)
    with serving.process(f"m={faulty}", **options) as (process, (url,)), connected(url) as deaf, connected(url) as mute:
        children = serving.family(process)
        deaf.sendall(request)
        mute.sendall(request[:-1])
        serving.until(lambda: serving.metric(url, "hasten_requests_total", outcome="answered") == 1, "it is computed")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert psutil.wait_procs(children, timeout=30)[1] == []


def test_a_client_that_sends_byte_by_byte_is_answered_in_the_end_and_others_meanwhile(faulty: Path) -> None:
    _, request = large(1)
    with serving.process(f"m={faulty}") as (_, (url,)), connected(url) as slow:
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for k in range(len(request)):
            slow.sendall(request[k : k + 1])
            if k % 20 == 0:
                assert outputs(ask(url, (k, 1))) == [2 * k, 2]
        assert slow.recv(1000).startswith(b"HTTP/1.1 200 ")


@WAYS
def test_deadlines_that_pass_while_a_batch_is_computed_harm_nobody_in_it(
    faulty: Path, gates: dict[float, Path], options: dict[str, Any]
) -> None:
    """Of one call, a sender has gone, another one's time is over, and the others' answers are theirs."""
    with serving.process(f"m={faulty}", **options) as (_, (url,)), ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, url, (-3, 1))
        with gates[-3].open("wb"):
            company = [pool.submit(ask, url, (-4, 1)), pool.submit(ask, url, (5, 6), (7, 8))]
            hurried = pool.submit(ask, url, (9, 9), timeout=2_000_000)
            gone = connected(url)
            gone.sendall(large(2)[1])
            serving.until(lambda: serving.metric(url, "hasten_queue_length") == 4, "all wait")
        with gates[-4].open("wb"):  # they are in one call
            gone.close()
            assert ask(url, (1, 1), timeout=1).status_code == 503, "not even begun"
            with pytest.raises(httpx.TimeoutException):  # it takes as long as the hurried one has time
                httpx.post(url + INFER, json=asked((1, 1)), timeout=3)
        assert outputs(first.result()) == [-6, 2]
        assert [outputs(one.result()) for one in company] == [[-8, 2], [10, 12, 14, 16]]
        reply = hurried.result()
        assert reply.status_code == 503 or outputs(reply) == [18, 18]
        assert serving.metric(url, "hasten_slo_misses_total") == (reply.status_code == 200)
        assert outputs(ask(url, (1, 2))) == [2, 4]


@WAYS
def test_a_log_that_cannot_be_written_costs_no_answer(faulty: Path, options: dict[str, Any]) -> None:
    """The disk of the log is full: what fails is told to whoever asked all the same."""
    with open("/dev/full", "w") as full, serving.process(f"m={faulty}", stderr=full, **options) as (process, (url,)):
        children = serving.family(process)
        for k in range(20):
            assert ask(url, (FAIL, 0)).status_code == 500
            with connected(url) as wrong:
                wrong.sendall(b"what is this\r\n\r\n")
                assert wrong.recv(1000).startswith(b"HTTP/1.1 400 ")
            assert outputs(ask(url, (k, 1))) == [2 * k, 2]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert psutil.wait_procs(children, timeout=30)[1] == []


def test_no_request_needs_the_disk(tmp_path: Path) -> None:
    """Not a byte may be written to a file: a form with a picture of megabytes is answered like a small one."""
    pytest.importorskip("onnx")
    pytest.importorskip("python_multipart")
    from PIL import Image

    made, buffer = write(bundles.picture_contents(tmp_path), tmp_path / "out"), io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(900, 900, 3), dtype=np.uint8)).save(buffer, "PNG")
    picture = buffer.getvalue()
    assert len(picture) > 2_000_000
    with Bundle.open(made) as bundle:
        guess = bundle.classify(picture)[0][0]
    with serving.process(made, prepare=_no_files) as (_, (url,)):
        for files in ({"image": ("a.png", picture, "image/png")}, {"image": ("b.png", bundles.pictures(1)[0], "image/png")}):
            reply = httpx.post(f"{url}/api/v1/classify", files=files, timeout=60)
            assert reply.status_code == 200, reply.text
            if files["image"][1] is picture:
                best = reply.json()["predictions"][0]
                assert (best["label"], best["score"]) == (guess.label, pytest.approx(guess.score))


def _no_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
