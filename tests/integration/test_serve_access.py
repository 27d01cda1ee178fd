"""Keys with their limits and certificates: who may ask, over both protocols, and who hears why he may not."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bundles
import httpx
import numpy as np
import pytest
import serving
from serving import Held

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core.errors import JobError, NotKnown, RateLimited
from hasten.serve.access import Access, Rights
from hasten.serve.app import create_app
from hasten.serve.door import Door
from hasten.serve.tls import Tls

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets.*")

INFER = "/v2/models/toy-model/infer"
ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
ALICE, BOB, CAROL = "alice-0123456789abcdef", "bob-0123456789abcdef", "carol-0123456789abcdef"


def rights(key: str, **more: Any) -> Rights:
    return Rights(sha256=hashlib.sha256(key.encode()).hexdigest(), **more)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("null")
    return write(bundles.null_contents(folder), folder / "out")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    lines = [f"[{name}]\nsha256 = '{rights(key).sha256}'\n" for name, key in (("alice", ALICE), ("bob", BOB), ("carol", CAROL))]
    file.write_text(lines[0] + "reload = true\n" + lines[1] + "requests_per_second = 0.001\nburst = 2\n" + lines[2])
    return file


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_may_ask_at_its_rate_and_its_burst_at_once() -> None:
    """In a minute of asking without a pause: the burst and the rate, to the request."""
    clock = Clock()
    access = Access({"bob": rights(BOB, requests_per_second=5.0, burst=10)}, clock=clock)
    taken, waits = 0, []
    for k in range(6001):
        clock.now = k / 100
        try:
            with access.admitted([("X-API-Key", BOB)]):
                taken += 1
        except RateLimited as error:
            waits.append(error.retry_after_seconds)
    assert taken == 10 + 5 * 60
    assert 0 < max(waits) <= 0.2


def test_retry_after_is_when_the_next_one_is_taken() -> None:
    clock = Clock()
    access = Access({"bob": rights(BOB, requests_per_second=0.5)}, clock=clock)
    with access.admitted([("X-API-Key", BOB)]):
        pass
    with pytest.raises(RateLimited) as caught, access.admitted([("X-API-Key", BOB)]):
        pass
    clock.now += caught.value.retry_after_seconds + 1e-9
    with access.admitted([("X-API-Key", BOB)]):
        pass


def test_one_key_does_not_use_up_anothers_rate() -> None:
    access = Access({"alice": rights(ALICE, requests_per_second=1.0), "bob": rights(BOB, requests_per_second=1.0)}, clock=Clock())
    with access.admitted([("X-API-Key", BOB)]), access.admitted([("authorization", f"bearer {ALICE}")]):
        pass


@pytest.mark.parametrize("given", [[], [("x-api-key", "")], [("x-api-key", ALICE + "0")], [("authorization", f"Basic {ALICE}")]])
def test_who_has_no_known_key_is_not_let_in(given: list[tuple[str, str]]) -> None:
    with pytest.raises(NotKnown), Access({"alice": rights(ALICE)}).admitted(given):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nsha256 = 'abc'", "--api-keys a.sha256: is wrong (String should match pattern"),
        ("[a]\nsha256 = '" + 64 * "0" + "'\nrate = 3", "--api-keys a.rate: is wrong (Extra inputs are not permitted)"),
        ("[a]\nrequests_per_second = 0", "--api-keys a.sha256: is wrong (Field required)"),
        ("[a", "--api-keys: must be TOML"),
    ],
)
def test_a_wrong_file_of_keys_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(JobError) as caught:
        Access.read(tmp_path / "keys.toml")
    assert str(caught.value).startswith(message)
    with pytest.raises(JobError, match="--api-keys: cannot be read"):
        Access.read(tmp_path / "other.toml")


def test_http_lets_in_who_has_a_key(path: Path, keys: Path) -> None:
    with serving.process(path, api_keys=str(keys)) as (_, (url,)), httpx.Client(base_url=url) as client:
        assert client.get("/v2/health/ready").status_code == client.get("/v2/health/live").status_code == 200
        for closed in ("/", "/metrics", "/v2", "/v2/models/toy-model", "/api/v1/experiments"):
            reply = client.get(closed)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert ALICE not in reply.text
        assert client.post(INFER, json=ONE).status_code == 401
        assert client.post(INFER, json=ONE, headers=bearer("wrong")).status_code == 401
        assert client.post(INFER, json=ONE, headers=bearer(ALICE)).status_code == 200
        statuses = [client.post(INFER, json=ONE, headers=bearer(BOB)).status_code for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        refused = client.post("/api/v1/classify", json={}, headers=bearer(BOB))
        assert refused.headers["content-type"] == "application/problem+json"
        assert 900 < int(refused.headers["retry-after"]) <= 1000
        assert refused.json()["detail"].startswith("request: this key may ask 0.001 a second.")


def test_the_right_to_reload_is_the_keys_own(path: Path, keys: Path) -> None:
    with serving.process(path, api_keys=str(keys), allow_reload=True) as (_, (url,)), httpx.Client(base_url=url, timeout=60) as client:
        load = "/v2/repository/models/toy-model/load"
        assert client.post(load, headers=bearer(BOB)).status_code == 403
        assert client.post(load, headers=bearer(ALICE)).status_code == 200
        assert client.post(load).status_code == 401


def test_grpc_lets_in_who_has_a_key(path: Path, keys: Path) -> None:
    grpc = pytest.importorskip("tritonclient.grpc")
    utils = pytest.importorskip("tritonclient.utils")
    with (
        serving.process(path, grpc=True, api_keys=str(keys)) as (_, (_, url)),
        grpc.InferenceServerClient(url.removeprefix("grpc://")) as client,
    ):
        x = grpc.InferInput("x", [1, 2], "FP32")
        x.set_data_from_numpy(np.ones((1, 2), np.float32))

        def status(**options: Any) -> str:
            try:
                client.infer("toy-model", [x], **options)
            except utils.InferenceServerException as error:
                return str(error.status())
            return "OK"

        assert client.is_server_ready()
        assert status() == "StatusCode.UNAUTHENTICATED"
        assert status(headers=bearer(ALICE)) == "OK"
        seen = [status(headers={"x-api-key": BOB}) for _ in range(3)]
        assert seen == ["OK", "OK", "StatusCode.RESOURCE_EXHAUSTED"]
        with pytest.raises(utils.InferenceServerException, match="is not changed with this key"):
            client.unload_model("toy-model", headers={"x-api-key": CAROL})


def test_a_key_has_as_many_requests_under_way_as_it_may(path: Path) -> None:
    program, bundle = Held("y", 3), Bundle.open(path)
    bundle.__dict__["_program"] = program
    app = create_app(bundle, door=Door(access=Access({"alice": rights(ALICE, concurrency=1), "bob": rights(BOB)})))
    with serving.here(app) as (_, url), ThreadPoolExecutor(2) as pool:
        program.hold()

        def post(key: str) -> httpx.Response:
            return httpx.post(url + INFER, json=ONE, headers=bearer(key), timeout=60)

        first = pool.submit(post, ALICE)
        assert program.entered.wait(30)
        second = post(ALICE)
        other = pool.submit(post, BOB)
        program.released.set()
        assert (first.result().status_code, second.status_code, other.result().status_code) == (200, 429, 200)
        assert second.headers["retry-after"] == "1"
        assert post(ALICE).status_code == 200


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server and a client that it signed, and a stranger who signed himself."""
    folder = tmp_path_factory.mktemp("pems")

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    def own(name: str) -> None:
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, "-subj", f"/CN={name}")

    try:
        own("ca")
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    own("stranger")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        run("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return folder


def context(pems: Path, name: str | None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(pems / "ca.pem"))
    if name is not None:
        made.load_cert_chain(pems / f"{name}.pem", pems / f"{name}.key")
    return made


def test_mutual_tls_over_http_and_grpc(path: Path, pems: Path) -> None:
    grpc = pytest.importorskip("grpc")
    files = {"tls_cert": str(pems / "server.pem"), "tls_key": str(pems / "server.key"), "tls_ca": str(pems / "ca.pem")}
    with serving.process(path, grpc=True, **files) as (_, (url, grpc_url)):
        assert url.startswith("https://")
        assert httpx.post(url + INFER, json=ONE, verify=context(pems, "client")).status_code == 200
        for name in (None, "stranger"):
            with pytest.raises(httpx.TransportError):
                httpx.post(url + INFER, json=ONE, verify=context(pems, name))
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http") + "/v2")
        root, key, certificate = ((pems / file).read_bytes() for file in ("ca.pem", "client.key", "client.pem"))
        live = "/inference.GRPCInferenceService/ServerLive"
        address = grpc_url.removeprefix("grpcs://")
        with grpc.secure_channel(address, grpc.ssl_channel_credentials(root, key, certificate)) as channel:
            assert channel.unary_unary(live)(b"", timeout=30) == b"\x08\x01"
        with grpc.secure_channel(address, grpc.ssl_channel_credentials(root)) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(live)(b"", timeout=30)


def test_without_a_ca_the_server_alone_proves_who_it_is(path: Path, pems: Path) -> None:
    with serving.process(path, tls_cert=str(pems / "server.pem"), tls_key=str(pems / "server.key")) as (_, (url,)):
        assert httpx.post(url + INFER, json=ONE, verify=context(pems, None)).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)  # of a certificate that no authority of this machine signed


def test_certificates_that_do_not_fit_are_told(pems: Path) -> None:
    assert Tls.of(None, None, None) is None
    with pytest.raises(JobError, match="--tls-cert: must be given together with --tls-key"):
        Tls.of(pems / "server.pem", None, None)
    with pytest.raises(JobError, match="--tls-cert: must be given together"):
        Tls.of(None, None, pems / "ca.pem")
    with pytest.raises(JobError, match=r"--tls-cert: must be a certificate that goes with --tls-key \(KEY_VALUES_MISMATCH\)"):
        Tls.of(pems / "server.pem", pems / "client.key", None)
    with pytest.raises(JobError, match=r"--tls-cert: .*\(No such file or directory\)"):
        Tls.of(pems / "none.pem", pems / "client.key", None)
    with pytest.raises(JobError, match="--tls-ca: must be certificates"):
        Tls.of(pems / "server.pem", pems / "server.key", pems / "names")
