"""The application that `hasten deploy --to ray-serve` writes, on a Ray of this machine: two replicas, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

pytest.importorskip("onnx")
pytest.importorskip("yaml", reason="the extra `deploy` is not installed")
pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytest.importorskip("fastapi", reason='Ray Serve is not installed: `pip install "ray[serve]"`')
pytest.importorskip("aiohttp_cors", reason='Ray Serve is not installed: `pip install "ray[serve]"`')

import bundles

from hasten import cli
from hasten.bundle.read import Bundle
from hasten.bundle.write import write

pytestmark = pytest.mark.slow

# What `serve run serve.yaml` does, in a process that ends with this test.
_RUN = """
import json, sys
import ray, yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema
sys.path.insert(0, ".")
config = yaml.safe_load(open("serve.yaml"))
checked = ServeDeploySchema.model_validate(config)
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=sys.argv[2])
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
from app import app
(one,) = checked.applications
serve.run(app, name=one.name, route_prefix=one.route_prefix)
print("running", flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
"""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Where the application answers, and its bundle."""
    (tmp_path / "parts").mkdir()
    bundle = write(bundles.picture_contents(tmp_path / "parts"), tmp_path / "toy")
    given = ("--replicas", "2", "--startup", "5s", "--memory", "300MB")
    assert cli.main(["deploy", str(bundle), "--to", "ray-serve", "--output", str(tmp_path / "app"), *given]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    paths = os.pathsep.join([str(tmp_path / "app"), *(os.path.abspath(path) for path in sys.path if path)])
    with tempfile.TemporaryDirectory(prefix="hasten-test-", ignore_cleanup_errors=True) as short, subprocess.Popen(
        [sys.executable, "-c", _RUN, str(port), short], cwd=tmp_path / "app", env={**os.environ, **quiet, "PYTHONPATH": paths},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None
            said = child.stdout.readline()
            assert said == "running\n", child.communicate()[1][-3000:]
            yield f"http://127.0.0.1:{port}", bundle
        finally:
            child.communicate()  # its standard input ends, and so does it


def replicas(parent: int) -> list[psutil.Process]:
    """The processes that hold a replica, below the Ray that this test has started."""
    return [p for p in psutil.process_iter(["cmdline"]) if "ServeReplica" in " ".join(p.info["cmdline"] or ()) and _below(p, parent)]


def _below(process: psutil.Process, parent: int) -> bool:
    return any(above.pid == parent for above in process.parents())


def test_no_request_is_without_an_answer_when_a_replica_is_killed(address: tuple[str, Path]) -> None:
    url, bundle = address
    pictures = bundles.pictures(8)
    with Bundle.open(bundle) as opened:
        expected = [opened.classify([picture], top=1)[0][0] for picture in pictures]
    stop, answered, retried = threading.Event(), [0] * 4, [0] * 4

    def ask(who: int) -> None:
        with httpx.Client(timeout=60) as client:
            at = who
            while not stop.is_set():
                k = at % len(pictures)
                while (reply := _reply(client, url, pictures[k])) is None:
                    retried[who] += 1
                    assert retried[who] < 1000
                assert reply["label"] == expected[k].label
                assert reply["score"] == pytest.approx(expected[k].score, rel=1e-4)
                answered[who], at = answered[who] + 1, at + 1

    threads = [_Watched(target=ask, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    try:
        before = _two(os.getpid())
        _until(lambda: min(answered) >= 5, threads)
        os.kill(before[0].pid, signal.SIGKILL)
        at_kill = list(answered)
        _until(lambda: all(now >= then + 20 for now, then in zip(answered, at_kill, strict=True)), threads)
        after = _two(os.getpid(), other_than=before[0])
        _until(lambda: len({p.pid for p in after}) == 2, threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
    assert [thread.failure for thread in threads] == [None] * 4
    assert before[0].pid not in {p.pid for p in after}, "another one took the place of the one that was killed"
    assert httpx.get(f"{url}/v2/health/ready", timeout=60).json() == {"ready": True}


class _Watched(threading.Thread):
    """A thread whose failure is seen."""

    failure: BaseException | None = None

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self.failure = error


def _reply(client: httpx.Client, url: str, picture: bytes) -> dict[str, object] | None:
    """The answer; None where the replica was lost, and the request is to be sent again."""
    try:
        reply = client.post(f"{url}/v1/predict", content=picture, headers={"content-type": "application/octet-stream"})
    except httpx.TransportError:
        return None
    assert reply.status_code in (200, 500, 503), reply.text
    return dict(json.loads(reply.content)) if reply.status_code == 200 else None


def _two(parent: int, other_than: psutil.Process | None = None) -> list[psutil.Process]:
    """Two replicas that live, once there are two."""
    deadline = time.monotonic() + 180
    while len(found := [p for p in replicas(parent) if p != other_than and p.is_running()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)  # Ray tells nobody outside when a replica is there
    return found


def _until(condition: object, threads: list[_Watched]) -> None:
    deadline = time.monotonic() + 180
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        assert all(thread.failure is None for thread in threads), [thread.failure for thread in threads]
        time.sleep(0.05)
