"""Every registered reader and loader keeps the laws of its seam."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hasten.core import registry
from hasten.core.job import Job
from hasten.core.samples import Samples
from hasten.core.seams import Loader, Reader
from hasten.testing import LoaderSuite, Original, ReaderSuite, Source

_RNG = np.random.default_rng(0)
_TABLE = _RNG.normal(size=(24, 5)).astype(np.float32).round(3)
_LABELS = np.arange(24) % 3
_PIXELS = _RNG.integers(0, 256, (24, 6, 6), dtype=np.uint8)


def _pngs() -> list[bytes]:
    from PIL import Image

    encoded = []
    for pixels in _PIXELS:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


def _npz(folder: Path) -> Source:
    np.savez(folder / "data.npz", x=_TABLE, label=_LABELS)
    return Source(text="data.npz", folder=folder, samples=Samples(inputs={"": _TABLE}, labels=_LABELS))


def _csv(folder: Path) -> Source:
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*"abcde", "label"])
        writer.writerows([*(repr(float(v)) for v in row), label] for row, label in zip(_TABLE, _LABELS, strict=True))
    return Source(text="data.csv", folder=folder, samples=Samples(inputs={"": _TABLE}, labels=_LABELS))


def _parquet(folder: Path) -> Source:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"image": _pngs(), "label": _LABELS}), folder / "data.parquet")
    return Source(text="data.parquet", folder=folder, samples=Samples(inputs={"": _pngs()}, labels=_LABELS))


def _folder(folder: Path) -> Source:
    for number, (png, label) in enumerate(zip(_pngs(), _LABELS, strict=True)):
        place = folder / "pictures" / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02}.png").write_bytes(png)
    order = np.argsort(_LABELS, kind="stable")
    return Source(text="pictures", folder=folder, samples=Samples(inputs={"": _pngs()}, labels=_LABELS).take(order))


def _callable(folder: Path) -> Source:
    np.savez(folder / "arrays.npz", x=_TABLE, y=_LABELS)
    (folder / "source.py").write_text(
        "from pathlib import Path\n\nimport numpy as np\n\n\ndef data():\n"
        "    arrays = np.load(Path(__file__).parent / 'arrays.npz')\n    return arrays['x'], arrays['y']\n"
    )
    return Source(text="source.py:data", folder=folder, samples=Samples(inputs={"": _TABLE}, labels=_LABELS))


SOURCES: dict[str, Callable[[Path], Source]] = {
    "npz": _npz,
    "csv": _csv,
    "parquet": _parquet,
    "folder": _folder,
    "callable": _callable,
}


class TestEveryReader(ReaderSuite):
    @pytest.fixture(params=registry.find(Reader).values(), ids=lambda kind: kind.name)
    def kind(self, request: pytest.FixtureRequest) -> type[Reader]:
        return request.param  # type: ignore[no-any-return]

    @pytest.fixture
    def source(self, kind: type[Reader], tmp_path: Path) -> Source:
        return SOURCES[kind.name](tmp_path)


def _two_layers() -> tuple[object, np.ndarray, np.ndarray]:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3)).eval()
    with torch.inference_mode():
        return module, _TABLE[:4], module(torch.from_numpy(_TABLE[:4])).numpy()


def _torch(folder: Path) -> Original:
    module, example, expected = _two_layers()
    job = Job.make({"model": {"module": module}, "data": {"content": (_TABLE, _LABELS)}}, folder=folder)
    return Original(job=job, example={"input": example}, outputs={"output": expected})


def _onnx(folder: Path) -> Original:
    helper, numpy_helper = pytest.importorskip("onnx").helper, pytest.importorskip("onnx").numpy_helper
    weights = _RNG.normal(size=(5, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", 1, ["N", 5])],
        [helper.make_tensor_value_info("y", 1, ["N", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    (folder / "line.onnx").write_bytes(model.SerializeToString())
    job = Job.make({"model": {"source": "line.onnx"}, "data": {"content": (_TABLE, _LABELS)}}, folder=folder)
    return Original(job=job, example={"x": _TABLE[:4]}, outputs={"y": _TABLE[:4] @ weights})


ORIGINALS: dict[str, Callable[[Path], Original]] = {"torch": _torch, "onnx": _onnx}


class TestEveryLoader(LoaderSuite):
    @pytest.fixture(params=registry.find(Loader).values(), ids=lambda kind: kind.name)
    def kind(self, request: pytest.FixtureRequest) -> type[Loader]:
        return request.param  # type: ignore[no-any-return]

    @pytest.fixture
    def original(self, kind: type[Loader], tmp_path: Path) -> Original:
        return ORIGINALS[kind.name](tmp_path)
