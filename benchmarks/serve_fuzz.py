"""Ten thousand wrong requests for each protocol, with right ones in between: every one is answered or its connection closed, no answer is
the server's own failure, every right one is answered right, and afterwards the server is as it was.

    make bench-serve-fuzz
    python benchmarks/serve_fuzz.py --only http --count 1000 --seed 7

Sections: http (JSON, the binary tensor extension, forms and pictures, framing, pipelining, pieces), grpc (messages and streams of them),
openapi (schemathesis, from the document that the server gives out; it is an environment of its own:
`python -m venv out/fuzz && out/fuzz/bin/pip install schemathesis==4.32.5`). One seed gives the same requests again; what fails is printed
with the seed and what was done to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import serve_mutants as mutants
from common import ROOT, Figures, figure, finish, known_figures, write
from serve_mutants import Good, Mutant

NAME = "serve-fuzz"
PATIENCE = 20.0  # seconds in which an answer or the end must come
PART_SECONDS = 100  # of schemathesis at once
SILENCE = 0.5  # seconds after which a client that cannot know whether the server waits for more says that there is none
WORKERS = 16
MOST_PROBLEMS = 100  # then it gives up
OUT = ROOT / "out" / "bench-serve-fuzz"
SCHEMATHESIS = ROOT / "out" / "fuzz" / "bin" / "schemathesis"


@dataclass(kw_only=True)
class Findings:
    """What came of it. answers: by status; problems: what must not be, each with what was sent."""

    sent: int = 0
    right: int = 0
    closed: int = 0
    answers: Counter[Any] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


# HTTP ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


async def read(reader: asyncio.StreamReader, *, bodiless: bool = False) -> Answer | None:
    """The next answer; None: the connection was closed before it. Raises IncompleteReadError for a part of one, ValueError for none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    line, *rest = head[:-4].split(b"\r\n")
    if not (found := re.fullmatch(rb"HTTP/1\.1 (\d{3}) .*", line)):
        raise ValueError(f"no status line: {line!r}")
    headers = {name.lower(): value for name, value in (one.split(b": ", 1) for one in rest)}
    status = int(found[1])
    if status == 100:
        return await read(reader, bodiless=bodiless)
    body = b""
    if headers.get(b"transfer-encoding") == b"chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    elif not bodiless:
        body = await reader.readexactly(int(headers[b"content-length"]))
    return Answer(status=status, headers=headers, body=body)


@dataclass(kw_only=True)
class HttpFuzz:
    """goods: requests with the bodies of their answers."""

    host: str
    port: int
    goods: list[tuple[Good, bytes]]
    found: Findings = field(default_factory=Findings)

    async def run(self, count: int, seed: int) -> Findings:
        source, rng = mutants.http([good for good, _ in self.goods], seed), random.Random(seed)
        plan = [
            (next(source), rng.choices(self.goods, k=rng.choice((0, 0, 1, 2))), rng.choices(self.goods, k=rng.choice((0, 1))))
            for _ in range(count)
        ]
        line = iter(enumerate(plan))

        async def work() -> None:
            for k, (mutant, before, after) in line:
                if len(self.found.problems) > MOST_PROBLEMS:
                    return
                try:
                    await self.exchange(mutant, before, after)
                    if k % 10 == 0:
                        await self.exchange(None, [rng.choice(self.goods)], [])
                except (ValueError, KeyError, asyncio.IncompleteReadError, TimeoutError) as error:
                    self.problem(f"{type(error).__name__} {error}", mutant)

        await asyncio.gather(*(work() for _ in range(WORKERS)))
        return self.found

    async def exchange(self, mutant: Mutant | None, before: Sequence[tuple[Good, bytes]], after: Sequence[tuple[Good, bytes]]) -> None:
        """On one connection: right ones, the wrong one, and right ones again where the server can know where it ends."""
        bodiless = mutant is not None and b"".join(mutant.pieces).upper().startswith(b"HEAD")
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 20)
        self.found.sent += mutant is not None
        try:
            writing = asyncio.ensure_future(self._write(writer, mutant, [] if bodiless else before, after))
            for good, body in [] if bodiless else before:
                self.check(await asyncio.wait_for(read(reader), PATIENCE), good, body, mutant)
            if mutant is None:
                return
            answer = await self._answer(reader, writer, writing, mutant, bodiless)
            self.judge(answer, mutant)
            if answer is None or bodiless:
                return
            if mutant.whole and answer.headers.get(b"connection") != b"close":
                for good, body in after:
                    self.check(await asyncio.wait_for(read(reader), PATIENCE), good, body, mutant)
        except ConnectionError as error:
            self.problem(f"{type(error).__name__}: what was answered may not have arrived", mutant)
        finally:
            writing.cancel()
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter, mutant: Mutant | None, before: Any, after: Any) -> None:
        for good, _ in before:
            writer.write(good.request)
        for piece in mutant.pieces if mutant else ():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if mutant is not None and mutant.whole:
            for good, _ in after:
                writer.write(good.request)
        await writer.drain()

    async def _answer(self, reader: Any, writer: Any, writing: asyncio.Future[None], mutant: Mutant, bodiless: bool) -> Answer | None:
        """To the wrong one. Where the server may wait for more, it hears after some silence that there is none."""
        answer = asyncio.ensure_future(read(reader, bodiless=bodiless))
        if not mutant.whole:
            await asyncio.wait((answer,), timeout=SILENCE)
            if not answer.done() and writer.can_write_eof():
                writer.write_eof()
        return await asyncio.wait_for(answer, PATIENCE)

    def judge(self, answer: Answer | None, mutant: Mutant) -> None:
        if answer is None:
            self.found.closed += 1
            if mutant.whole:
                self.problem("closed without an answer", mutant)
            return
        self.found.answers[answer.status] += 1
        if answer.status >= 500 and answer.status != 503:
            self.problem(f"{answer.status} {answer.body[:200]!r}", mutant)
        if b"json" in answer.headers.get(b"content-type", b"") and answer.body:
            json.loads(answer.body)

    def check(self, answer: Answer | None, good: Good, body: bytes, mutant: Mutant | None) -> None:
        """A right one must be answered as it was before."""
        if answer is None or answer.status != 200 or answer.body != body:
            self.problem(f"{good.path} was answered {answer and (answer.status, answer.body[:200])}", mutant)
        else:
            self.found.right += 1

    def problem(self, text: str, mutant: Mutant | None) -> None:
        sent = f" ({mutant.what}: {b''.join(mutant.pieces)[:400]!r})" if mutant else ""
        self.found.problems.append(text + sent)


async def http(address: str, requests: Sequence[Good], *, count: int, seed: int) -> Findings:
    """requests: right ones, whose answers are asked for first. address: HOST:PORT."""
    host, port = address.rsplit(":", 1)
    goods = []
    for good in requests:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(good.request)
        answer = await asyncio.wait_for(read(reader), PATIENCE)
        assert answer is not None
        assert answer.status == 200, answer
        goods.append((good, answer.body))
        writer.close()
    return await HttpFuzz(host=host, port=int(port), goods=goods).run(count, seed)


def right_requests(address: str, *, tensors: str, pictures: str, picture: bytes) -> list[Good]:
    """Of each kind that the server takes. tensors, pictures: names of its models; picture: encoded, for the second one."""
    rng = np.random.default_rng(0)
    inputs = _get(address, f"/v2/models/{tensors}")["inputs"]
    made = [mutants.infer(tensors, inputs, mutants.tensors(inputs, rng), binary=binary) for binary in (True, True, True, False)]
    b64 = b64encode(picture).decode()
    form = b"\r\n".join((
        b"--x", b'Content-Disposition: form-data; name="image"; filename="a.png"', b"Content-Type: image/png", b"", picture,
        b"--x", b'Content-Disposition: form-data; name="model"', b"", pictures.encode(), b"--x--", b"",
    ))  # fmt: skip
    return [
        *made,
        Good(path="/api/v1/classify", head={"image_base64": b64, "model": pictures, "top_k": 2, "priority": "bulk", "timeout_seconds": 99}),
        Good(path=f"/api/v1/classify?model={pictures}&top_k=2", head=picture, kind="image/png"),
        Good(path="/api/v1/classify", head=form, kind="multipart/form-data; boundary=x"),
        Good(path=f"/v1/predict?model={pictures}", head=picture, kind="image/png"),
        Good(path="/v2/repository/index", head={"ready": True}),
        Good(path=f"/v2/models/{tensors}", head=b"", method="GET"),
    ]


def _get(address: str, path: str) -> Any:
    import urllib.request

    with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
        return json.loads(answer.read())


# gRPC ------------------------------------------------------------------------------------------------------------------

EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "PERMISSION_DENIED"}
BUSY = {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}  # where the server says so; the library does too, of a connection that broke
SERVICE = "/inference.GRPCInferenceService/"
OTHERS = ("ModelMetadata", "ModelReady", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "ServerReady", "ServerMetadata")


async def grpc(address: str, *, model: str, count: int, seed: int) -> Findings:
    """Messages as bytes, to every method; of ModelInfer and of its stream most."""
    from grpc import aio

    from hasten.serve import messages

    async with aio.insecure_channel(address) as channel:
        infer, stream = channel.unary_unary(f"{SERVICE}ModelInfer"), channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        others = [channel.unary_unary(SERVICE + name) for name in OTHERS]
        metadata = messages.message("ModelMetadataResponse").FromString(
            await others[0](messages.message("ModelMetadataRequest")(name=model).SerializeToString(), timeout=PATIENCE)
        )
        inputs = [{"name": i.name, "datatype": i.datatype, "shape": list(i.shape)} for i in metadata.inputs]
        good = messages.message("ModelInferRequest")(model_name=model, id="good")
        for entry in inputs:
            array = mutants.tensors(inputs, np.random.default_rng(0))[entry["name"]]
            good.inputs.add(name=entry["name"], datatype=entry["datatype"], shape=array.shape)
            good.raw_input_contents.append(array.tobytes())
        right, found, rng = await infer(good.SerializeToString(), timeout=PATIENCE), Findings(), random.Random(seed)
        wrong = mutants.messages([good], seed)
        line = iter([(next(wrong), rng.random()) for _ in range(count)])

        def heard(status: str, data: bytes, told: str = "") -> None:
            found.sent += 1
            found.answers[status] += 1
            if status not in EXPECTED and not (status in BUSY and told.startswith("request: ")):
                found.problems.append(f"{status} {told[:200]} ({data[:1500]!r})")

        def check(answer: bytes) -> None:
            if answer == right:
                found.right += 1
            else:
                found.problems.append(f"a right request was answered {answer[:200]!r}")

        async def one(call: Any, data: bytes) -> None:
            try:
                await call(data, timeout=PATIENCE)
                heard("OK", data)
            except aio.AioRpcError as error:
                heard(error.code().name, data, error.details() or "")

        async def streamed(data: bytes) -> None:
            """Right, wrong, right: three answers in this order, and the stream goes on."""
            answers = [
                answer async for answer in stream(iter((good.SerializeToString(), data, good.SerializeToString())), timeout=PATIENCE)
            ]
            read = [messages.message("ModelStreamInferResponse").FromString(answer) for answer in answers]
            assert len(read) == 3, f"{len(read)} answers to 3 requests"
            check(read[0].infer_response.SerializeToString())
            heard("INTERNAL" if "internal error" in read[1].error_message else "OK", data, read[1].error_message)
            check(read[2].infer_response.SerializeToString())

        async def work() -> None:
            for data, how in line:
                if how < 0.15:
                    try:
                        await streamed(data)
                    except (aio.AioRpcError, AssertionError) as error:
                        found.problems.append(f"a stream ended: {error} ({data[:1500]!r})")
                else:
                    await one(rng.choice(others) if how > 0.9 else infer, data)
                if how > 0.8:
                    check(await infer(good.SerializeToString(), timeout=PATIENCE))

        await asyncio.gather(*(work() for _ in range(WORKERS)))
        return found


# OpenAPI ---------------------------------------------------------------------------------------------------------------


def openapi(address: str, *, count: int, seed: int) -> tuple[int, str]:
    """How many cases schemathesis tried, at least so many, and its words where it found something, else nothing.

    It is asked for parts of some time, since the number of its cases cannot be asked for: many that it makes are equal.
    """
    settings = OUT / "schemathesis.toml"  # a deadline that nobody can keep is answered 503, as it should be
    settings.write_text('[checks.not_a_server_error]\nexpected-statuses = ["2xx", "4xx", "503"]\n')
    checks = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance")
    command = [
        str(SCHEMATHESIS), "--config-file", str(settings), "run", f"http://{address}/api/v1/openapi.json", "--mode", "all",
        "--checks", ",".join((*checks, "response_schema_conformance")), "--phases", "examples,coverage,fuzzing", "--workers", "2",
        "--no-color", "--request-timeout", str(2 * PATIENCE), "--continue-on-failure", "--max-time", str(PART_SECONDS),
    ]  # fmt: skip
    tried = 0
    while tried < count:
        done = subprocess.run([*command, "--seed", str(seed + tried)], capture_output=True, text=True, cwd=SCHEMATHESIS.parent)
        found = re.search(r"(\d+) generated", done.stdout)
        if done.returncode != 0 or found is None:
            return tried, (done.stdout + done.stderr)[-6000:]
        tried += int(found[1])
    return tried, ""


# A server, and how it is afterwards ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class State:
    rss_mb: float
    files: int
    threads: int

    @classmethod
    def of(cls, process: psutil.Process) -> State:
        return cls(rss_mb=process.memory_info().rss / 1e6, files=process.num_fds(), threads=process.num_threads())


def idle(process: psutil.Process, seconds: float = 10.0) -> float:
    """The share of a core that it uses with nobody asking."""
    time.sleep(1.0)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / seconds


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    import bundles
    import serving

    from hasten.bundle.write import write as write_bundle

    parser = argparse.ArgumentParser(description="ten thousand wrong requests for each protocol")
    parser.add_argument("--only", choices=("http", "grpc", "openapi"), nargs="*", default=("http", "grpc", "openapi"))
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    figures: Figures = known_figures(NAME)
    shutil.rmtree(OUT, ignore_errors=True)
    named = []
    for name, contents in (("tensors", bundles.tensor_contents), ("pictures", bundles.picture_contents)):
        (OUT / name).mkdir(parents=True)
        named.append(f"{name}={write_bundle(contents(OUT / name), OUT / name / 'bundle')}")
    with serving.process(*named, grpc=True, access_log=str(OUT / "access.log")) as (
        child,
        urls,
    ):
        process, (http_at, grpc_at) = psutil.Process(child.pid), (url.split("//")[1] for url in urls)
        for section in arguments.only:
            figures |= run(section, arguments, process, http_at, grpc_at, bundles.pictures(1)[0])
            write(NAME, figures)
        figures["idle_share_of_a_core"] = figure(idle(process), at_most=0.005)
        child.terminate()
        figures["exit_code"] = figure(child.wait(60), at_most=0)
    finish(NAME, figures)


def run(section: str, arguments: argparse.Namespace, process: psutil.Process, http_at: str, grpc_at: str, picture: bytes) -> Figures:
    """Some first, so that what is kept once is there, such as the answers that wait for labels; then all."""
    found, states = Findings(), []
    first = arguments.count // (10 if section == "openapi" else 2)
    for k, count in enumerate((first, arguments.count)):
        seed = arguments.seed + k
        if section == "openapi" and not SCHEMATHESIS.exists():
            print(f"  skipped: no {SCHEMATHESIS}")
            return {}
        if section == "openapi":
            tried, words = openapi(http_at, count=count, seed=seed)
            found = Findings(sent=tried, problems=[words] if words else [])
        elif section == "grpc":
            found = asyncio.run(grpc(grpc_at, model="tensors", count=count, seed=seed))
        else:
            goods = right_requests(http_at, tensors="tensors", pictures="pictures", picture=picture)
            found = asyncio.run(http(http_at, goods, count=count, seed=seed))
        print(f"{section}: {found.sent} wrong ones {dict(found.answers)}, {found.closed} closed; {found.right} right ones", flush=True)
        for text in found.problems[:20]:
            print(f"  {text}", flush=True)
        states.append(State.of(process))
    before, after = states
    return {
        f"{section}.wrong_requests": figure(found.sent, at_least=0.99 * arguments.count),
        f"{section}.right_requests_between": figure(found.right),
        f"{section}.problems": figure(len(found.problems), at_most=0),
        f"{section}.memory_growth_mb": figure(after.rss_mb - before.rss_mb, at_most=5.0),
        f"{section}.more_files": figure(after.files - before.files, at_most=0),
        f"{section}.more_threads": figure(after.threads - before.threads, at_most=0),
    }


if __name__ == "__main__":
    main()
