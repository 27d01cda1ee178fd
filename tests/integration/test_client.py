"""hasten's clients against the real server: what they get is what the bundle computes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bundles
import numpy as np
import pytest
import serving
from PIL import Image

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.client import AsyncClient, Client
from hasten.client.conversation import Unreachable
from hasten.core.errors import DataError, JobError, NotPossibleHere, QueueFull, UnknownModel
from hasten.serve.app import create_app

pytest.importorskip("onnx")
pytest.importorskip("httpx2", reason="pip install 'hasten[client]'")
PICTURE = bundles.pictures(1, seed=3)[0]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    one, two = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("tensors")
    return write(bundles.picture_contents(one), one / "out"), write(bundles.tensor_contents(two), two / "out")


@pytest.fixture(scope="module")
def url(paths: tuple[Path, Path]) -> Iterator[str]:
    with serving.process(f"pictures={paths[0]}", f"tensors={paths[1]}", f"tensors={paths[1]}", slo="20s") as (_, (url, *_)):
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout=20.0) as client:
        yield client


def test_tensors_of_every_type_come_back_as_the_bundle_computes_them(client: Client, paths: tuple[Path, Path]) -> None:
    values = serving.tensors(5)
    with Bundle.open(paths[1]) as bundle:
        expected = bundle.predict(values)
    for answer in (client.predict("tensors", values), client.predict("tensors", values, version="1", priority="bulk", timeout=19.0)):
        assert set(answer) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(answer[name], array)
            assert answer[name].dtype == array.dtype
            answer[name][:] = 0  # the caller's own
    assert set(client.predict("tensors", values, outputs=["count"])) == {"count"}


def test_a_picture_in_every_form_is_the_same_guess(client: Client, paths: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PICTURE)
    pixels = np.asarray(Image.open(io.BytesIO(PICTURE)).convert("RGB"))
    with Bundle.open(paths[0]) as bundle:
        expected = bundle.classify(PICTURE, top=3)[0]
    for image in (PICTURE, tmp_path / "a.jpg", str(tmp_path / "a.jpg"), pixels):
        assert client.classify(image, model="pictures", top_k=3) == expected


def test_async_client_is_the_same(url: str, paths: tuple[Path, Path]) -> None:
    values = serving.tensors(3)

    async def ask() -> None:
        async with AsyncClient(url) as client:
            answers = await asyncio.gather(*(client.predict("tensors", values) for _ in range(20)))
            for answer in answers:
                np.testing.assert_array_equal(answer["total"], values["left"] + values["right"])
            assert len(await client.classify(PICTURE, model="pictures")) == 5
            assert (await client.metadata("tensors"))["versions"] == ["1", "2"]
            assert await client.ready("tensors")
            with pytest.raises(UnknownModel):
                await client.predict("other", values)

    asyncio.run(ask())


def test_errors_are_the_server_s_own_words_and_class(client: Client) -> None:
    with pytest.raises(UnknownModel, match=r"^model: must be one of pictures, tensors, but got 'other'\.$"):
        client.predict("other", serving.tensors(1))
    with pytest.raises(DataError, match=r"^input 'wrong': must be one of the model's inputs"):
        client.predict("tensors", {"wrong": np.zeros(3)})
    with pytest.raises(DataError, match=r"^model: must be named"):
        client.classify(PICTURE)
    with pytest.raises(DataError, match="picture: cannot be read"):
        client.classify("no such file.jpg")
    with pytest.raises(DataError, match="picture: must be uint8"):
        client.classify(np.zeros((4, 4)))


def test_ready_and_metadata(client: Client) -> None:
    assert client.ready()
    assert client.ready("tensors", version="2")
    assert not client.ready("tensors", version="3")
    assert client.metadata("pictures")["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 3, 12, 12]}]


def test_who_cannot_be_reached_is_named() -> None:
    with Client("http://127.0.0.1:1", retries=1, timeout=5.0) as client:
        assert not client.ready()
        with pytest.raises(Unreachable, match=r"server: cannot be reached at http://127\.0\.0\.1:1 .* Does it run\?"):
            client.metadata("m")
    with pytest.raises(JobError, match="url: must begin with http"):
        Client("127.0.0.1:8000")


def test_a_full_queue_and_a_lack_of_time_are_told_apart(paths: tuple[Path, Path]) -> None:
    bundle = Bundle.open(paths[0])
    held = serving.Held("scores", bundles.CLASSES)
    bundle.__dict__["_program"] = held
    pixels = {"pixels": np.zeros((1, 3, bundles.SIDE, bundles.SIDE), np.float32)}
    app = create_app(bundle, max_queue=1)
    with serving.here(app) as (_, url), Client(url, timeout=60.0, retries=0) as client, ThreadPoolExecutor(2) as pool:
        held.hold()
        try:
            answers = [pool.submit(client.predict, "toy-model", pixels)]
            assert held.entered.wait(30)  # it is in the program, which holds it
            with pytest.raises(NotPossibleHere, match=r"did not answer in time|deadline"):
                client.predict("toy-model", pixels, timeout=0.05)
            model = app.state.service.models.get("toy-model")
            while model.waiting:  # the server has not heard yet that it gave up
                assert client.ready()
            answers.append(pool.submit(client.predict, "toy-model", pixels))
            while not model.waiting:
                assert not answers[1].done()
            with pytest.raises(QueueFull, match="requests wait already"):
                client.predict("toy-model", pixels)
        finally:
            held.released.set()
        assert [answer.result(30)["scores"].shape for answer in answers] == [(1, 7), (1, 7)]
