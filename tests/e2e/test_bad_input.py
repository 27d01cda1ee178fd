# ruff: noqa: E501  (each message stands on one line, as the user reads it)
"""What users get wrong: each mistake is one line that names it, with its exit code, before any work is done for nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxslim")
pytest.importorskip("pyarrow")
pytest.importorskip("safetensors")

import bundles

from hasten import cli
from hasten.bundle.write import write
from hasten.core.digest import digest_json
from hasten.core.errors import WorkerError
from hasten.measure.worker import Worker
from hasten.search import opening

MODELS = """
import sys, torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        return self.layer(x)

def net(): return Net()
def raises(): raise RuntimeError("no\\nweights here")
def nothing(): return None
def weights(): return Net().state_dict()
def leaves(): sys.exit("gone")
number = 3

class Raises(Net):
    def forward(self, x): raise KeyError("features")
class Dict(Net):
    def forward(self, x): return {"logits": self.layer(x)}
class Nan(Net):
    def forward(self, x): return self.layer(x) / 0 * 0
class Random(Net):
    def forward(self, x): return self.layer(x) + torch.rand(1)
class Scalar(Net):
    def forward(self, x): return self.layer(x).mean()
class Branches(Net):
    def forward(self, x):
        if x.sum() > 0:
            return self.layer(x)
        return -self.layer(x)

def nan_weights():
    net = Net()
    nn.init.constant_(net.layer.bias, float("nan"))
    return net
"""

FILES: dict[str, str] = {
    "models.py": MODELS,
    "syntax.py": "def build(:\n    pass\n",
    "imports.py": "import no_such_package\n",
    "arrays.py": "import numpy\ndef raises(): raise OSError('disk on fire')\ndef text(): return 'x'\n"
    "def empty(): return {'calibrate': numpy.ones((4, 4)), 'select': numpy.ones((0, 4)), 'certify': numpy.ones((4, 4))}\n"
    "def two(): return {'calibrate': numpy.ones((4, 4)), 'select': numpy.ones((4, 4))}\n",
    "text.onnx": "not a model",
    "text.npz": "not arrays",
    "text.parquet": "not a table",
    "data.xyz": "",
    "text.safetensors": "not weights",
    "text.pt": "",
    "a-file": "",
    "words.csv": "a,b,label\n1,2,0\n3,four,1\n",
    "ragged.csv": "a,b,label\n1,2,0\n3,1\n",
    "header.csv": "a,b,label\n",
    "good.csv": "a,b,c,d,clas\n" + "".join(f"{k},{k},{k},{k},{k % 3}\n" for k in range(30)),
    "unlabelled.csv": "a,b,label\n1,2,cat\n3,4,\n",
    "broken.toml": "[model\n",
    "no-model.toml": "[data]\nsource = 'data.npz'\n",
    "no-data.toml": "[model]\nsource = 'net.onnx'\n",
    "no-source.toml": "[model]\n[data]\nsource = 'data.npz'\n",
    "flat.toml": "model = 'net.onnx'\ndata = 'data.npz'\n",
    "section.toml": "[model]\nsource = 'net.onnx'\n[data]\nsource = 'data.npz'\n[limit]\nmax_drop = 1\n",
    "job.toml": "[model]\nsource = 'net.onnx'\n[data]\nsource = 'data.npz'\n",
    "splits.toml": "[model]\nsource = 'net.onnx'\n[data]\ncalibrate = 'data.npz'\nselect = 'data.npz'\n",
    "leak.toml": "[model]\nsource = 'net.onnx'\n[data]\ncalibrate = 'data.npz'\nselect = 'few.npz'\ncertify = 'other.npz'\n",
    "late.toml": "[model]\nsource = 'net.onnx'\n[data]\ncalibrate = 'data.npz'\nselect = 'other.npz'\ncertify = 'big.npz'\n",
}


def write_files(folder: Path) -> None:
    """Every wrong file, and the right ones that they are combined with."""
    import onnx
    import pyarrow as pa
    import pyarrow.parquet as pq
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import save_file

    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "latin.toml").write_bytes("# caf\u00e9\n".encode("latin1"))
    (folder / "folder.toml").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("mine")

    bundles.save_classifier(folder / "net.onnx")
    bundles.save_two_inputs(folder / "two.onnx")
    whole = (folder / "net.onnx").read_bytes()
    (folder / "half.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.onnx").write_bytes(b"")
    for name, domain in (("op.onnx", ""), ("domain.onnx", "acme")):
        graph = helper.make_graph(
            [helper.make_node("Frobnicate", ["pixels"], ["scores"], domain=domain)],
            "odd",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, bundles.SIDE, bundles.SIDE])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3, bundles.SIDE, bundles.SIDE])],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / name)
    model = onnx.load(folder / "net.onnx")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(bundles.CLASSES, np.nan, np.float32), "bias"))
    onnx.save(model, folder / "nan.onnx")

    rng = np.random.default_rng(0)
    side, classes = bundles.SIDE, bundles.CLASSES

    def pixels(count: int, wide: int = side) -> np.ndarray:
        return rng.normal(size=(count, 3, side, wide)).astype(np.float32)

    labels = np.arange(70) % classes
    right = pixels(70)
    holed = right.copy()
    holed[17, 0, 0, 0] = np.nan
    arrays: dict[str, dict[str, np.ndarray]] = {
        "data": {"pixels": right, "label": labels},
        "few": {"pixels": right[:9], "label": labels[:9]},
        "other": {"pixels": pixels(40), "label": labels[:40]},
        "big": {"pixels": pixels(40, side + 1), "label": labels[:40]},
        "nan": {"pixels": holed},
        "unlabelled": {"pixels": right},
        "lengths": {"pixels": right, "label": labels[:60]},
        "one-class": {"pixels": right, "label": np.zeros(70, int)},
        "range": {"pixels": right, "label": labels + 1},
        "negative": {"pixels": right, "label": labels - 1},
        "real": {"pixels": right, "label": labels + 0.5},
        "objects": {"pixels": np.array([{}] * 70)},
        "words": {"pixels": np.array(["a"] * 70)},
        "scalar": {"pixels": np.float32(3)},
        "only-labels": {"label": labels},
        "rows": {"x": rng.normal(size=(70, 4)).astype(np.float32), "label": np.arange(70) % 3},
        "wide-rows": {"x": rng.normal(size=(70, 5)).astype(np.float32)},
        "inputs": {"x": rng.normal(size=(70, 4)).astype(np.float32), "z": np.zeros(70)},
        "two": {"left": right[:, 0, 0, :3], "right": right[:, 0, 0, :3], "ids": np.arange(70), "flags": np.ones((70, 2), bool)},
        "small": {"images": rng.integers(0, 256, size=(70, 8, 8, 3), dtype=np.uint8), "label": labels},
    }
    arrays["float-ids"] = {**arrays["two"], "ids": np.linspace(0, 1, 70)}
    arrays["renamed"] = {"lift" if name == "left" else name: array for name, array in arrays["two"].items()}
    arrays["lacking"] = {name: array for name, array in arrays["two"].items() if name != "left"}
    for name, content in arrays.items():
        np.savez(folder / f"{name}.npz", **content)
    zipped = (folder / "data.npz").read_bytes()
    (folder / "half.npz").write_bytes(zipped[: len(zipped) // 2])

    encoded = bundles.pictures(30)
    for name, content in (
        ("pictures", encoded),
        ("damaged", [*encoded[:21], encoded[21][:60], *encoded[22:]]),
        ("bytes", [*encoded[:5], b"no", *encoded[6:]]),
    ):
        pq.write_table(pa.table({"image": content, "label": [k % classes for k in range(30)]}), folder / f"{name}.parquet")
    for label in "ab":
        (folder / "classes" / label).mkdir(parents=True)
        for k, picture in enumerate(bundles.pictures(8, seed=ord(label))):
            (folder / "classes" / label / f"{k}.png").write_bytes(picture)
    (folder / "loose").mkdir()
    (folder / "loose" / "0.png").write_bytes(encoded[0])

    state = {"layer.weight": np.ones((3, 4), np.float32), "layer.bias": np.ones(3, np.float32)}
    save_file({"layer.weight": state["layer.weight"]}, folder / "lacking.safetensors")
    save_file({**state, "head.bias": state["layer.bias"]}, folder / "extra.safetensors")
    save_file({**state, "layer.weight": np.ones((4, 3), np.float32)}, folder / "shapes.safetensors")
    save_file({**state, "layer.bias": np.full(3, np.nan, np.float32)}, folder / "nan.safetensors")


def onnx_with(data: str, *settings: str, model: str = "net.onnx") -> list[str]:
    return ["optimize", model, "--data", data, *(part for setting in settings for part in ("--set", setting))]


def torch_with(function: str, *settings: str, data: str = "rows.npz") -> list[str]:
    return onnx_with(data, *settings, model=function)


def job_with(*settings: str) -> list[str]:
    return ["optimize", "job.toml", *(part for setting in settings for part in ("--set", setting))]


SQUARE = ["data.preprocess.resize=[12, 12]"]


# fmt: off
CASES: list[tuple[str, list[str], int, str]] = [
    # The job file
    ("broken-toml", ["optimize", "broken.toml"], 2,
     "job broken.toml: must be TOML (Expected ']' at the end of a table declaration (at line 1, column 7))."),
    ("job-missing", ["optimize", "no.toml"], 2,
     "job: must be a file that exists, but got 'no.toml'."),
    ("job-is-a-folder", ["optimize", "folder.toml"], 2,
     "job: must be a TOML file, not a folder, but got 'folder.toml'."),
    ("job-not-utf8", ["optimize", "latin.toml"], 2,
     "job latin.toml: must be TOML ('utf-8' codec can't decode byte 0xe9 in position 5: invalid continuation byte)."),
    ("no-model-section", ["optimize", "no-model.toml"], 2,
     "[model]: is missing from the job. `hasten show job` lists every key."),
    ("no-data-section", ["optimize", "no-data.toml"], 2,
     "[data]: is missing from the job. `hasten show job` lists every key."),
    ("no-model-source", ["optimize", "no-source.toml"], 2,
     "model.source: must be an ONNX file or a callable such as model.py:build. `hasten show job` lists every key."),
    ("section-is-no-table", ["optimize", "flat.toml"], 2,
     "model: must be a section with keys, but got 'net.onnx'."),
    ("section-is-no-table-set", ["optimize", "flat.toml", "--set", "model.weights=x"], 2,
     "model.weights: is not a key of the job. `hasten show job` lists every key."),
    ("unknown-section", ["optimize", "section.toml"], 2,
     "limit: is not a key of the job. Did you mean 'limits'?"),
    ("unknown-key", job_with("limits.max_dorp=1"), 2,
     "limits.max_dorp: is not a key of the job. Did you mean 'limits.max_drop'?"),
    ("unknown-section-set", job_with("limit.max_drop=1"), 2,
     "limit: is not a key of the job. Did you mean 'limits'?"),
    ("unknown-preprocess-key", job_with("data.preprocess.resise=3"), 2,
     "data.preprocess.resise: is not a key of the job. Did you mean 'data.preprocess.resize'?"),
    ("set-below-a-value", job_with("limits.max_drop.x=1"), 2,
     "limits.max_drop: must be a number, but got {'x': 1}."),
    ("set-without-value", job_with("limits.max_drop"), 2,
     "--set: must be SECTION.KEY=VALUE, but got 'limits.max_drop'. For example --set limits.max_drop=1.0."),
    ("set-bad-toml", job_with("limits.max_drop=[1"), 2,
     "limits.max_drop: must be a number, but got '[1'."),
    ("set-bad-path", job_with("limits..max_drop=1"), 2,
     "--set: must be SECTION.KEY=VALUE, but got 'limits..max_drop=1'. For example --set limits.max_drop=1.0."),
    ("set-no-section", job_with("budget=1"), 2,
     "--set: must be SECTION.KEY=VALUE, but got 'budget=1'. For example --set limits.max_drop=1.0."),
    ("type-text-for-number", job_with("target.threads='two'"), 2,
     "target.threads: must be a whole number, but got 'two'."),
    ("type-fraction-for-count", job_with("target.batch_size=1.5"), 2,
     "target.batch_size: must be a whole number, but got 1.5."),
    ("type-text-for-list", job_with("target.runtimes='onnxruntime'"), 2,
     'target.runtimes: must be a list of names, such as ["a", "b"], but got \'onnxruntime\'.'),
    ("type-number-for-text", job_with("model.source=3"), 2,
     "model.source: must be text, but got 3."),
    ("type-list-of-numbers", job_with("search.techniques=[1]"), 2,
     "search.techniques.0: must be text, but got 1."),
    ("type-text-for-flag", job_with("search.allow_undecided='yes'"), 2,
     "search.allow_undecided: must be true or false, but got 'yes'."),
    ("zero-threads", job_with("target.threads=0"), 2,
     "target.threads: should be greater than 0, but got 0."),
    ("negative-max-drop", job_with("limits.max_drop=-1"), 2,
     "limits.max_drop: should be greater than or equal to 0, but got -1."),
    ("nan-max-drop", job_with("limits.max_drop=nan"), 2,
     "limits.max_drop: must be a finite number, but got nan."),
    ("zero-latency", job_with("limits.latency_ms=0"), 2,
     "limits.latency_ms: should be greater than 0, but got 0."),
    ("inf-latency", job_with("limits.latency_ms=inf"), 2,
     "limits.latency_ms: must be a finite number, but got inf."),
    ("workers-of-another-kind", job_with("search.workers='dask'"), 2,
     "search.workers: must be ray or ray://host:port, but got 'dask'."),
    ("negative-seed", job_with("search.seed=-1"), 2,
     "search.seed: should be greater than or equal to 0, but got -1."),
    ("zero-limit", job_with("data.limit=0"), 2,
     "data.limit: should be greater than 0, but got 0."),
    ("bad-budget", job_with("search.budget='soon'"), 2,
     "search.budget: must be a duration, but got 'soon'. Write it like 90s, 5m or 1h30m."),
    ("zero-budget", job_with("search.budget='0s'"), 2,
     "search.budget: must be longer than zero, but got '0s'. Write it like 90s, 5m or 1h30m."),
    ("endless-budget", job_with("search.budget=inf"), 2,
     "search.budget: must be a duration, but got inf. Write it like 90s, 5m or 1h30m."),
    ("bad-training-budget", job_with("train.budget='soon'"), 2,
     "train.budget: must be a duration, but got 'soon'. Write it like 90s, 5m or 1h30m."),
    ("list-budget", job_with("search.budget=[5]"), 2,
     "search.budget: must be a duration, but got [5]. Write it like 90s, 5m or 1h30m."),
    ("unknown-objective", job_with("search.objective='latencie'"), 2,
     "search.objective: should be 'latency', 'throughput', 'size', 'memory' or 'energy', but got 'latencie'."),
    ("unknown-metric", job_with("quality.metric='acuracy'"), 2,
     "quality.metric: must name one of the metrics, but got 'acuracy'. Did you mean 'accuracy'?"),
    ("unknown-runtime", job_with("target.runtimes=['onnxruntim']"), 2,
     "target.runtimes: must name one of the runtimes, but got 'onnxruntim'. Did you mean 'onnxruntime'?"),
    ("unknown-technique", job_with("search.techniques=['static-int']"), 2,
     "search.techniques: must name one of the techniques, but got 'static-int'. Did you mean 'static-int8'?"),
    ("runtime-null-only", job_with("target.runtimes=['null']"), 3,
     "target.runtimes: must hold one that runs ONNX graphs and is installed (null: it computes nothing: it is there for tests). See `hasten list runtimes`"),
    ("runtime-eager-only", job_with("target.runtimes=['eager']"), 3,
     "target.runtimes: must hold one that runs ONNX graphs and is installed (eager: it runs PyTorch modules). See `hasten list runtimes`"),
    ("no-runtimes", job_with("target.runtimes=[]"), 3,
     "target.runtimes: must hold one that runs ONNX graphs and is installed (none was named). See `hasten list runtimes`"),
    ("both-data", job_with("data.select='data.npz'"), 2,
     "data.source: must not be given together with data.calibrate, data.select or data.certify."),
    ("third-split-missing", ["optimize", "splits.toml"], 2,
     "data.source: must be given, or all of data.calibrate, data.select and data.certify."),
    ("model-without-data", ["optimize", "net.onnx"], 2,
     "--data: must be given with a model. Add --data data.npz, a .parquet, a .csv, a folder or file.py:function."),
    ("out-is-a-file", [*job_with(), "--out", "a-file"], 2,
     "out: must be a folder, but got 'a-file'. A file is there: name another place."),
    ("out-below-a-file", [*job_with(), "--out", "a-file/x"], 3,
     "out: cannot be written (Not a directory), but got 'a-file/x'. Free space, or name another place."),
    ("out-holds-other-things", [*job_with(), "--out", "full"], 2,
     "out: must be a new or empty folder, or a bundle to replace, but got 'full'. Something else is in it: name another folder."),
    ("out-unwritable", [*job_with(), "--out", "/proc/x/y"], 3,
     "out: cannot be written (No such file or directory), but got '/proc/x/y'. Free space, or name another place."),
    ("store-below-a-file", [*job_with(), "--store", "a-file/x"], 3,
     "store: must be a folder that can be written ([Errno 20] Not a directory: 'a-file/x/objects'). Set HASTEN_STORE to another place."),
    # The model
    ("model-unknown-kind", onnx_with("data.npz", model="net.pt"), 2,
     "model.source: must be an .onnx file or a callable such as model.py:build, but got 'net.pt'."),
    ("onnx-missing", onnx_with("data.npz", model="nat.onnx"), 2,
     "model.source: must be a file that exists, but got 'nat.onnx'. Paths start at the folder of the job file."),
    ("onnx-text", onnx_with("data.npz", model="text.onnx"), 2,
     "text.onnx: must be an ONNX file (DecodeError: Error parsing message with type 'onnx.ModelProto': Wire format was corrupt)."),
    ("onnx-empty", onnx_with("data.npz", model="empty.onnx"), 2,
     "empty.onnx: must hold a graph with at least one operator."),
    ("onnx-truncated", onnx_with("data.npz", model="half.onnx"), 2,
     "half.onnx: must be an ONNX file (DecodeError: Error parsing message with type 'onnx.ModelProto': Wire format was corrupt)."),
    ("onnx-unknown-op", onnx_with("data.npz", model="op.onnx"), 2,
     "op.onnx: must be a valid ONNX model (No Op registered for Frobnicate with domain_version of 17)."),
    ("onnx-unknown-domain", onnx_with("data.npz", model="domain.onnx"), 2,
     "domain.onnx: must load in ONNX Runtime (Fatal error: acme:Frobnicate(-1) is not a registered function/op)."),
    ("onnx-nan-weights", onnx_with("data.npz", model="nan.onnx"), 2,
     "nan.onnx, weight 'bias': must be finite, but got 'NaN'."),
    ("onnx-with-weights", onnx_with("data.npz", "model.weights='nan.safetensors'"), 2,
     "model.weights: must not be given with an ONNX file, which holds its weights, but got 'nan.safetensors'."),
    ("output-unknown", onnx_with("data.npz", "quality.output='score'"), 2,
     "quality.output: must be one of the model's outputs scores, but got 'score'."),
    ("callable-file-missing", torch_with("model.py:net"), 2,
     "model.source: must name a Python file that exists, but got 'model.py'. Paths start at the folder of the job file."),
    ("callable-module-missing", torch_with("no_such_module:net"), 2,
     "model.source: must name a module that can be imported, but got 'no_such_module'. Write file.py:function or package.module:function."),
    ("callable-missing", torch_with("models.py:nett"), 2,
     "model.source: must name a function of models.py, but got 'nett'. Did you mean 'net'?"),
    ("callable-is-a-number", torch_with("models.py:number"), 2,
     "model.source: must name a function, but models.py:number is of type int."),
    ("callable-raises", torch_with("models.py:raises"), 2,
     "models.py:raises: must return a torch.nn.Module, but raised RuntimeError: no weights here."),
    ("callable-exits", torch_with("models.py:leaves"), 2,
     "models.py:leaves: must return a torch.nn.Module, but raised SystemExit: gone."),
    ("callable-returns-none", torch_with("models.py:nothing"), 2,
     "models.py:nothing: must be a torch.nn.Module, but got 'an object of type NoneType'."),
    ("callable-returns-weights", torch_with("models.py:weights"), 2,
     "models.py:weights: must be a torch.nn.Module, but got 'an object of type OrderedDict'. Return the model itself, not its weights."),
    ("callable-syntax-error", torch_with("syntax.py:build"), 2,
     "model.source: must import, but syntax.py raised SyntaxError: invalid syntax (syntax.py, line 1)."),
    ("callable-import-error", torch_with("imports.py:build"), 2,
     "model.source: must import, but imports.py raised ModuleNotFoundError: No module named 'no_such_package'."),
    ("module-nan-weights", torch_with("models.py:nan_weights"), 2,
     "models.py:nan_weights, parameter 'layer.bias': must be finite, but got 'NaN or infinity'."),
    ("weights-missing", torch_with("models.py:net", "model.weights='no.safetensors'"), 2,
     "model.weights: must be a file that exists, but got 'no.safetensors'. Paths start at the folder of the job file."),
    ("weights-pickle", torch_with("models.py:net", "model.weights='text.pt'"), 2,
     "model.weights: must be a .safetensors file, since other formats can run code, but got 'text.pt'. Write it with safetensors.torch.save_file(model.state_dict(), PATH)."),
    ("weights-text", torch_with("models.py:net", "model.weights='text.safetensors'"), 2,
     "model.weights: must be a .safetensors file (SafetensorError: Error while deserializing header: header too large)."),
    ("weights-lacking", torch_with("models.py:net", "model.weights='lacking.safetensors'"), 2,
     "model.weights: must hold all weights of the model, but lacks 'layer.bias'."),
    ("weights-extra", torch_with("models.py:net", "model.weights='extra.safetensors'"), 2,
     "model.weights: must hold only weights of the model, but has 'head.bias'."),
    ("weights-shapes", torch_with("models.py:net", "model.weights='shapes.safetensors'"), 2,
     "model.weights, 'layer.weight': must have shape (3, 4), but got (4, 3)."),
    ("weights-nan", torch_with("models.py:net", "model.weights='nan.safetensors'"), 2,
     "models.py:net, parameter 'layer.bias': must be finite, but got 'NaN or infinity'."),
    ("forward-raises", torch_with("models.py:Raises"), 2,
     "models.py:Raises: must run on the data (x float32 (3, 4)), but raised KeyError: 'features'."),
    ("forward-returns-dict", torch_with("models.py:Dict"), 2,
     "models.py:Dict: must return a tensor or a tuple of tensors, but returned an object of type dict with the keys logits. Wrap the model in a module whose forward returns the values that count as a tuple."),
    ("forward-returns-nan", torch_with("models.py:Nan"), 2,
     "models.py:Nan: must be finite on the data, but got 'NaN'."),
    ("forward-random", torch_with("models.py:Random"), 2,
     "models.py:Random: must return the same for the same input, but got 'two different outputs'. Remove what is random in evaluation mode."),
    ("forward-returns-scalar", torch_with("models.py:Scalar"), 2,
     "models.py:Scalar: must return the batch as the first axis, but got ()."),
    ("forward-branches", torch_with("models.py:Branches"), 3,
     "models.py:Branches: must be exportable by torch.export, but models.py line 31 (if x.sum() > 0:) raised GuardOnDataDependentSymNode: Could not guard on data-dependent expression Eq(u0, 1) (unhinted: Eq(u0, 1)). (Size-like symbols: none). Use tensor operations that do not depend on values (torch.where instead of if), or bring the model as an ONNX file."),
    ("forward-wrong-shape", torch_with("models.py:net", data="wide-rows.npz"), 2,
     "models.py:net: must run on the data (x float32 (3, 5)), but raised RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x5 and 4x3)."),
    ("forward-unknown-input", torch_with("models.py:net", data="inputs.npz"), 2,
     "input 'z': must be a parameter of the model's forward(x). Rename it in the data."),
    # The data
    ("data-missing", onnx_with("no.npz"), 2,
     "no.npz: must be a file that exists. Paths start at the folder of the job file."),
    ("data-unknown-kind", onnx_with("data.xyz"), 2,
     "data.source: must be a callable, .npz, .parquet, .csv or a folder of class folders, but got 'data.xyz'."),
    ("data-path-without-kind", onnx_with("nowhere"), 2,
     "data.source: must be a callable, .npz, .parquet, .csv or a folder of class folders, but got 'nowhere'."),
    ("npz-text", onnx_with("text.npz"), 2,
     "text.npz: must be an .npz file of plain arrays (BadZipFile: File is not a zip file)."),
    ("npz-truncated", onnx_with("half.npz"), 2,
     "half.npz: must be an .npz file of plain arrays (BadZipFile: File is not a zip file)."),
    ("npz-objects", onnx_with("objects.npz"), 2,
     "objects.npz: must be an .npz file of plain arrays (ValueError: Object arrays cannot be loaded when allow_pickle=False)."),
    ("npz-words", onnx_with("words.npz"), 2,
     "words.npz.pixels: must be an array of numbers, but got '<U1'."),
    ("npz-scalar", onnx_with("scalar.npz"), 2,
     "scalar.npz.pixels: must be an array [N, ...], but got 'a single number'."),
    ("npz-only-labels", onnx_with("only-labels.npz"), 2,
     "only-labels.npz: must hold at least one array besides the labels."),
    ("npz-nan", onnx_with("nan.npz"), 2,
     "data: must be finite, but got 'NaN or infinity in sample 17'."),
    ("npz-lengths", onnx_with("lengths.npz"), 2,
     "data: must have the same number of samples in every array, but got {'inputs': 70, 'labels': 60}."),
    ("npz-few", onnx_with("few.npz"), 2,
     "data: must hold at least 10 different samples to be divided into three splits, but got 9."),
    ("npz-limit", onnx_with("data.npz", "data.limit=5"), 2,
     "data: must hold at least 10 different samples to be divided into three splits, but got 5."),
    ("npz-one-class", onnx_with("one-class.npz"), 2,
     "data: must hold at least two classes, but got 'only class 0'."),
    ("npz-label-range", onnx_with("range.npz"), 2,
     "data: must have labels from 0 to 6: the output has 7 classes, but got 7."),
    ("npz-label-negative", onnx_with("negative.npz"), 2,
     "data: must have labels from 0 to 6: the output has 7 classes, but got -1."),
    ("npz-label-real", onnx_with("real.npz", "quality.metric='accuracy'"), 2,
     "data: must have integer class numbers as labels for accuracy, but got 'float64'."),
    ("npz-label-column", onnx_with("data.npz", "data.label='labell'"), 2,
     "data.label: must name a column of data.npz, but got 'labell'. Did you mean 'label'?"),
    ("npz-no-labels", onnx_with("unlabelled.npz", "quality.metric='accuracy'"), 2,
     "data: must have labels for the metric accuracy. Without labels use agreement, cosine or sqnr."),
    ("npz-shape", onnx_with("big.npz"), 2,
     "input 'pixels': must have shape (N, 3, 12, 12), but got (4, 3, 12, 13)."),
    ("npz-axes", onnx_with("rows.npz"), 2,
     "input 'pixels': must have 4 axes (N, 3, 12, 12), but got 2 axes (4, 4)."),
    ("npz-dtype", onnx_with("float-ids.npz", model="two.onnx"), 2,
     "input 'ids': must be int64, but got float64."),
    ("npz-unknown-input", onnx_with("renamed.npz", model="two.onnx"), 2,
     "input 'lift': must be one of the model's inputs left, right, ids, flags. Did you mean 'left'?"),
    ("npz-input-missing", onnx_with("lacking.npz", model="two.onnx"), 2,
     "input 'left': is missing. The model wants left, right, ids, flags."),
    ("labels-count", onnx_with("data.npz", "data.labels=['a', 'b']"), 2,
     "data.labels: must name each of the 7 classes of the output 'scores', but got '2 names'. List all class names in data.labels, in the order of the outputs."),
    ("splits-leak", ["optimize", "leak.toml"], 2,
     "data: must not share samples between splits: 9 samples of calibrate are in select too (the first at select[0]). Remove the copies: a leak makes the certificate worthless."),
    ("split-of-another-shape", ["optimize", "late.toml"], 2,
     "data input 'pixels': must have shape (N, 3, 12, 12), but got (40, 3, 12, 13)."),
    ("callable-data-raises", onnx_with("arrays.py:raises"), 2,
     "arrays.py:raises: must return inputs or (inputs, labels), but raised OSError: disk on fire."),
    ("callable-data-text", onnx_with("arrays.py:text"), 2,
     "arrays.py:text: must be an array of numbers [N, ...], a dict of them, or a list of pictures, but got 'an object of type str'."),
    ("split-empty", onnx_with("arrays.py:empty"), 2,
     "data.select: must hold at least one sample, but got 'none'."),
    ("split-missing", onnx_with("arrays.py:two"), 2,
     "data: must be one set, or the three splits calibrate, select and certify, but got ['calibrate', 'select']."),
    ("csv-word", onnx_with("words.csv"), 2,
     "words.csv, line 3, column 'b': must be a number, but got 'four'."),
    ("csv-ragged", onnx_with("ragged.csv"), 2,
     "ragged.csv, line 3: must have 3 cells, like the header, but got 2."),
    ("csv-no-rows", onnx_with("header.csv"), 2,
     "header.csv: must hold a header and at least one row."),
    ("csv-label-column", onnx_with("good.csv", "data.label='class'"), 2,
     "data.label: must name a column of good.csv, but got 'class'. Did you mean 'clas'?"),
    ("csv-label-empty", onnx_with("unlabelled.csv"), 2,
     "unlabelled.csv, column 'label': must have a label in every row, but got 'none in row 2'."),
    ("parquet-text", onnx_with("text.parquet"), 2,
     "text.parquet: must be a .parquet file (ArrowInvalid: Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file)."),
    ("parquet-image-column", onnx_with("pictures.parquet", "data.image='img'"), 2,
     "data.image: must name a column of pictures.parquet, but got 'img'. Did you mean 'image'?"),
    ("parquet-damaged-picture", onnx_with("damaged.parquet", *SQUARE), 2,
     "data, sample 21 (the first is 0): picture: cannot be decoded (Truncated File Read). Send BMP, GIF, JPEG, PNG, PPM, TIFF or WEBP."),
    ("parquet-no-picture", onnx_with("bytes.parquet", *SQUARE), 2,
     "data, sample 5 (the first is 0): picture: is no picture, or of an unknown format. Send BMP, GIF, JPEG, PNG, PPM, TIFF or WEBP."),
    ("pictures-without-preprocess", onnx_with("pictures.parquet"), 2,
     "data.preprocess: must be given, since the data are pictures. `hasten show job` lists its keys."),
    ("pictures-of-many-sizes", onnx_with("pictures.parquet", "data.preprocess.mode='RGB'"), 2,
     "preprocess: must bring all pictures to one size, here (3, 28, 17), but got (3, 32, 29). Give resize as [height, width], or a crop."),
    ("pictures-wrong-size", onnx_with("pictures.parquet", "data.preprocess.resize=[13, 12]"), 2,
     "input 'pixels': must have shape (N, 3, 12, 12), but got (3, 3, 13, 12)."),
    ("pictures-grey", onnx_with("pictures.parquet", *SQUARE, "data.preprocess.mode='L'"), 2,
     "input 'pixels': must have shape (N, 3, 12, 12), but got (3, 1, 12, 12)."),
    ("folder-without-classes", onnx_with("loose", *SQUARE), 2,
     "loose: must hold class folders with pictures. Pictures end with .bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp."),
    ("folder-with-fewer-classes", onnx_with("classes", *SQUARE), 2,
     "data.labels: must name each of the 7 classes of the output 'scores', but got '2 names'. List all class names in data.labels, in the order of the outputs."),
    ("preprocess-std", onnx_with("pictures.parquet", "data.preprocess.std=[0]"), 2,
     "data.preprocess: std must not hold 0, but got {'std': [0]}."),
    ("preprocess-mean", onnx_with("pictures.parquet", "data.preprocess.mean=[0.5, 0.5]"), 2,
     "data.preprocess: mean must have 1 or 3 numbers for mode RGB, but got {'mean': [0.5, 0.5]}."),
    ("preprocess-mode", onnx_with("pictures.parquet", "data.preprocess.mode='CMYK'"), 2,
     "data.preprocess.mode: should be 'RGB' or 'L', but got 'CMYK'."),
    ("preprocess-crop", onnx_with("small.npz", "data.preprocess.crop=12"), 2,
     "data, sample 62 (the first is 0): preprocess.crop: must fit into the picture (8 x 8), but got '12 x 12'."),
    ("preprocess-of-tensors", onnx_with("data.npz", *SQUARE), 2,
     "data, sample 48 (the first is 0): picture: must be encoded bytes or a uint8 array H x W or H x W x C, C at most 4, but got 'float32 (3, 12, 12)'."),
    ("preprocess-of-many-inputs", onnx_with("two.npz", *SQUARE, model="two.onnx"), 2,
     "data.preprocess: is for data with one input, pictures, but got 'left, right, ids, flags'."),
    # Names and plug-ins
    ("show-unknown", ["show", "static-int"], 2,
     "name: must be a technique, a runtime, a metric or `job`, but got 'static-int'. Did you mean 'static-int8'?"),
    ("list-unknown", ["list", "technique"], 2,
     "Invalid value for '{techniques|runtimes|metrics}': 'technique' is not one of 'techniques', 'runtimes', 'metrics'. See `hasten list --help`"),
    ("plugin-missing", ["list", "techniques", "--plugin", "nowhere.py"], 2,
     "--plugin: must be a Python file, but got 'nowhere.py'."),
    ("plugin-raises", ["list", "techniques", "--plugin", "imports.py"], 2,
     "--plugin imports.py: must import, but raised ModuleNotFoundError: No module named 'no_such_package'."),
    ("plugin-syntax", ["list", "techniques", "--plugin", "syntax.py"], 2,
     "--plugin syntax.py: must import, but raised SyntaxError: invalid syntax (syntax.py, line 1)."),
    ("bench-missing", ["bench", "no.onnx"], 2,
     "bench: must be given bundles and .onnx files that exist, but got 'no.onnx'."),
    ("bench-text", ["bench", "text.onnx"], 2,
     "model text.onnx: must be an ONNX file that ONNX Runtime loads ([ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from text.onnx failed:Protobuf parsing failed.)."),
    ("bench-no-model", ["bench", "data.npz"], 2,
     "bench: must be given bundle folders and .onnx files, but got 'data.npz'."),
    ("profile-missing", ["profile", "no.onnx"], 2,
     "profile: must be given a file that exists, but got 'no.onnx'."),
    ("profile-text", ["profile", "text.onnx"], 2,
     "model text.onnx: must be an ONNX file that ONNX Runtime loads ([ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from text.onnx failed:Protobuf parsing failed.)."),
    ("profile-no-model", ["profile", "data.npz"], 2,
     "profile: must be given a job file, an .onnx file or a bundle folder, but got 'data.npz'."),
    ("profile-job-missing", ["profile", "no.toml"], 2,
     "job: must be a file that exists, but got 'no.toml'."),
    ("profile-job-and-data", ["profile", "job.toml", "--data", "data.npz"], 2,
     "--data: must not be given with a job, which names its data, but got 'data.npz'."),
    ("profile-wrong-data", ["profile", "net.onnx", "--data", "big.npz"], 2,
     "input 'pixels' of net: must have shape (N, 3, 12, 12), but got (10, 3, 12, 13)."),
    ("profile-out-is-a-file", ["profile", "net.onnx", "--out", "a-file"], 3,
     "out: cannot be written (File exists), but got 'a-file'. Name another place."),
    ("profile-no-folder", ["profile", "nowhere"], 2,
     "profile: must be given a job file, an .onnx file or a bundle folder, but got 'nowhere'."),
]
# fmt: on


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    write_files(folder)
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def one_child(here: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Jobs are opened in one real child process after the other job: starting one and importing torch takes seconds."""
    monkeypatch.setattr(opening, "Worker", lambda name, *, threads: request.getfixturevalue("opener"))


class Opener(contextlib.AbstractContextManager[Worker]):
    """Lends its worker, and starts a fresh one after a crash."""

    def __init__(self) -> None:
        self.worker: Worker | None = None

    def __enter__(self) -> Worker:
        self.worker = self.worker or Worker("open", threads=1)
        return self.worker

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.worker is not None and kind is not None and issubclass(kind, WorkerError):
            self.close()

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None


@pytest.fixture(scope="module")
def opener() -> Iterator[Opener]:
    opener = Opener()
    yield opener
    opener.close()


def last_line(text: str, folder: Path) -> str:
    """What the user reads last, without the name of the temporary folder."""
    assert "Traceback" not in text
    return text.splitlines()[-1].replace(f"{folder}/", "") if text else ""


@pytest.mark.parametrize(("args", "code", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_mistake_is_one_line_with_its_exit_code(
    one_child: None, here: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, message: str
) -> None:
    got = cli.main(args)
    out, err = capsys.readouterr()
    assert last_line(err, here) == f"error: {message}"
    assert (got, out) == (code, "")
    assert "lossless" not in err, "found only after the search had begun"


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0] in ("broken-toml", "callable-exits", "plugin-raises")], ids=lambda c: c[0]
)
def test_a_process_of_its_own_says_the_same(here: Path, case: tuple[str, list[str], int, str]) -> None:
    _, args, code, message = case
    done = hasten(*args)
    assert (done.returncode, done.stdout) == (code, "")
    assert last_line(done.stderr, here) == f"error: {message}"


def test_a_request_that_is_refused_at_once_leaves_nothing_behind(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*job_with("quality.metric='acuracy'"), "--out", "new/place", "--store", "new-store"]) == 2
    assert not (here / "new").exists()


# Bundles ----------------------------------------------------------------------------------------------------------


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def signed(root: Path, **changes: object) -> None:
    """A manifest that says something else, and is signed as whoever wrote it would have."""
    file = root / "manifest.json"
    content = {**json.loads(file.read_text()), **changes}
    content.pop("digest")
    file.write_text(json.dumps({**content, "digest": digest_json(content)}))


def escape(root: Path) -> None:
    files = json.loads((root / "manifest.json").read_text())["files"]
    signed(root, files={**files, "../secret": {"sha256": "0" * 64, "size_bytes": 1}})


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no-folder": shutil.rmtree,
    "no-manifest": lambda root: (root / "manifest.json").unlink(),
    "manifest-truncated": lambda root: truncate(root / "manifest.json"),
    "manifest-edited": lambda root: (root / "manifest.json").write_text((root / "manifest.json").read_text().replace("accuracy", "top5")),
    "newer-schema": lambda root: signed(root, schema_version=99),
    "path-escape": escape,
    "unknown-runtime": lambda root: signed(root, runtime={"name": "tachyon", "knobs": {}, "versions": {}}),
    "program-truncated": lambda root: truncate(root / "program" / "model.onnx"),
    "program-bit-flipped": lambda root: flip(root / "program" / "model.onnx"),
    "program-missing": lambda root: (root / "program" / "model.onnx").unlink(),
    "program-added-to": lambda root: (root / "program" / "extra.so").write_bytes(b"evil"),
}

DAMAGED = {
    "no-folder": "bundle: must be a folder, but got 'damaged'. `hasten optimize ... --out FOLDER` writes one.",
    "no-manifest": "bundle: must hold manifest.json, but got 'damaged'. Is this the folder that --out named?",
    "manifest-truncated": None,  # the JSON library's words
    "manifest-edited": "manifest.json: was changed after it was written (its digest does not match). Copy the bundle again.",
    "newer-schema": "manifest.json: must have a schema version of at most 1, but got 99. "
    "It was written by a newer hasten: `pip install --upgrade hasten`",
    "path-escape": "manifest.json: must name only files inside the bundle, but got '../secret'.",
}
"""Damages of the manifest: every verb says the same."""

CHANGED = {
    "unknown-runtime": "runtime: must be one of eager, null, onnxruntime, openvino, but got 'tachyon'. Name its plug-in with --plugin FILE.",
    "program-truncated": "program/model.onnx: must have SIZE bytes, but has HALF: it was truncated or changed. Copy the bundle again.",
    "program-bit-flipped": "program/model.onnx: was changed after it was written: its sha256 does not match. Copy the bundle again.",
    "program-missing": "program/model.onnx: is missing. Copy the bundle again.",
    "program-added-to": "program/extra.so: was added after the bundle was written. Remove it, or copy the bundle again.",
}
"""Damages of the program: nothing runs it, and `verify` lists them all."""

EXTRA = {"predict": ["classes/a/0.png"], "serve": ["--port", "0"], "bench": ["--seconds", "0.1"], "profile": ["--out", "profiled"]}


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    parts = folder / "parts"
    parts.mkdir()
    return write(bundles.picture_contents(parts), folder / "bundle")


@pytest.fixture
def damage(bundle: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of what was done to the bundle in `damaged`."""
    root = bundle.parent / "damaged"
    shutil.copytree(bundle, root)
    DAMAGES[request.param](root)
    yield request.param
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("verb", ["verify", "predict", "serve", "bench", "profile", "report"])
@pytest.mark.parametrize("damage", DAMAGED, indirect=True)
def test_a_manifest_that_cannot_be_trusted_is_refused_by_every_verb(
    here: Path, capsys: pytest.CaptureFixture[str], damage: str, verb: str
) -> None:
    code = cli.main([verb, "damaged", *EXTRA.get(verb, [])])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    if damage == "manifest-truncated":
        assert re.fullmatch(r"error: manifest.json: must be JSON \(.*\). It may be truncated: copy the bundle again.\n", err)
    elif (damage, verb) == ("no-folder", "bench"):  # it takes ONNX files too
        assert err == "error: bench: must be given bundles and .onnx files that exist, but got 'damaged'.\n"
    elif (damage, verb) == ("no-folder", "profile"):
        assert err == "error: profile: must be given a job file, an .onnx file or a bundle folder, but got 'damaged'.\n"
    else:
        assert err == f"error: {DAMAGED[damage]}\n"


@pytest.mark.parametrize("verb", ["predict", "serve", "bench", "profile"])
@pytest.mark.parametrize("damage", CHANGED, indirect=True)
def test_a_changed_program_is_never_run(here: Path, capsys: pytest.CaptureFixture[str], damage: str, verb: str) -> None:
    code = cli.main([verb, "damaged", *EXTRA.get(verb, [])])
    out, err = capsys.readouterr()
    size = (here / "bundle" / "program" / "model.onnx").stat().st_size
    message = CHANGED[damage].replace("SIZE", str(size)).replace("HALF", str(size // 2))
    assert (code, out, err) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("damage", CHANGED, indirect=True)
def test_verify_finds_a_changed_program(here: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    code = cli.main(["verify", "damaged", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert (code, document["ok"]) == (2, False)
    size = (here / "bundle" / "program" / "model.onnx").stat().st_size
    message = CHANGED[damage].replace("SIZE", str(size)).replace("HALF", str(size // 2))
    wrong = [f"{proof['name']}: {proof['sentence']}" for proof in document["proofs"] if not proof["ok"]]
    assert any(message.startswith(line) or line.endswith(message.rstrip(".")) for line in wrong), wrong


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["models.py"], "picture: is no picture, or of an unknown format. Send BMP, GIF, JPEG, PNG, PPM, TIFF or WEBP."),
        (["no.png"], "input: cannot be read (No such file or directory), but got 'no.png'."),
        (["rows.npz", "small.npz"], "input: must be pictures, or one .npz or .npy file, but got 'rows.npz, small.npz'."),
    ],
    ids=["text", "missing", "two-archives"],
)
def test_predict_refuses_what_is_no_picture(
    here: Path, bundle: Path, capsys: pytest.CaptureFixture[str], inputs: list[str], message: str
) -> None:
    assert cli.main(["predict", "bundle", *inputs]) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_serve_refuses_a_port_that_is_taken(here: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", "bundle", "--port", str(port)]) == 3
    assert capsys.readouterr() == ("", f"error: --port: {port} is in use on 127.0.0.1. Name another one; 0 takes any free one.\n")


def hasten(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hasten", *args], capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


# What takes longer ------------------------------------------------------------------------------------------------

CRASHES = '''
import os, signal, sys
from dataclasses import dataclass
from typing import ClassVar

from hasten.core.seams import Forecast, Program, Runtime, Technique, option


@dataclass(frozen=True, kw_only=True)
class Exits(Technique):
    """Ends its process while it works."""

    name: ClassVar[str] = "exits"

    def fits(self, candidate, profile): return None
    def expects(self, profile): return Forecast(speedup=9.0, seconds=0.1)

    def apply(self, candidate, context):
        print("assertion failed: tensor->rank == 4", file=sys.stderr, flush=True)
        os._exit(66)


@dataclass(frozen=True, kw_only=True)
class Raises(Exits):
    """Raises what is no error of ours."""

    name: ClassVar[str] = "raises"

    def apply(self, candidate, context): raise ZeroDivisionError("no calibration\\nat all")


@dataclass(frozen=True, kw_only=True)
class Killed(Runtime):
    """Is killed while it compiles, as when memory runs out."""

    name: ClassVar[str] = "killed"
    threads: int = option(0, "Threads.", choices=(0,))

    def fits(self, candidate, target): return None

    def compile(self, candidate, target, folder):
        print("mapping 900 GB", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def load(self, folder, target): raise AssertionError


class TiredProgram(Program):
    def __init__(self): self.calls = 0

    def run(self, inputs):
        self.calls += 1
        if self.calls > 20:
            os._exit(67)
        return self.inner.run(inputs)


@dataclass(frozen=True, kw_only=True)
class Tires(Runtime):
    """Computes what is right, and crashes at its twentieth call: while it is timed."""

    name: ClassVar[str] = "tires"
    threads: int = option(0, "Threads.", choices=(0,))

    def fits(self, candidate, target): return None
    def compile(self, candidate, target, folder): self._inner().compile(candidate, target, folder)

    def load(self, folder, target):
        program = TiredProgram()
        program.inner = self._inner().load(folder, target)
        return program

    def _inner(self):
        from hasten.core.registry import get
        return get(Runtime, "onnxruntime")()
'''


@pytest.mark.slow
def test_a_run_survives_what_crashes_in_it_and_keeps_its_last_words(here: Path) -> None:
    (here / "crash.py").write_text(CRASHES)
    done = hasten(
        *onnx_with("data.npz", "target.runtimes=['onnxruntime', 'killed', 'tires']", "search.techniques=['exits', 'raises']"),
        *("--budget", "2m", "--threads", "1", "--plugin", "crash.py", "--out", "survived", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "reference"
    evidence = [json.loads(line) for line in (here / "survived" / "evidence.jsonl").read_text().splitlines()]
    failed = " ".join(line["reason"] for line in evidence if line["kind"] == "trial" and line["fate"] == "failed")
    assert "killed: its process was ended by SIGKILL; its last words: mapping 900 GB." in failed
    assert "exits: its process ended with exit code 66; its last words: assertion failed: tensor->rank == 4." in failed
    assert "raised ZeroDivisionError: no calibration." in failed
    assert "its process ended with exit code 67" in failed


@pytest.mark.slow
def test_limits_that_nothing_keeps_are_exit_code_5(here: Path) -> None:
    limits = ["limits.latency_ms=0.000001", "limits.max_drop=50", "target.runtimes=['onnxruntime']"]
    done = hasten(*onnx_with("data.npz", *limits), "--budget", "3s", "--threads", "1", "--out", "none", "--json")
    assert done.returncode == 5, done.stderr
    document = json.loads(done.stdout)
    assert (document["verdict"], document["answer"], document["bundle"]) == ("failed", None, None)
    assert re.fullmatch(
        r"nothing keeps the limits; of the fastest lossless program: p95 latency is [0-9.]+ ms, at most [0-9.]+ at 95 %, over the 1e-06 ms allowed",
        document["reason"],
    )
    assert not (here / "none").exists()


@pytest.fixture(params=["24k", "100k", "200k", "340k"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="a small disk is simulated with mount")
def test_a_full_disk_is_one_line(here: Path, small_disk: Path) -> None:
    """Where it fills up while files are written, and not only when they are made: a mapped file would be SIGBUS."""
    done = hasten(*onnx_with("data.npz"), "--budget", "3s", "--threads", "1", "--store", str(small_disk / "store"))
    assert done.returncode == 3, done.stderr
    message = "error: store: needs space on the disk, which is full. Free some, or set HASTEN_STORE to another disk."
    assert last_line(done.stderr, here) == message
    assert "failed: store" not in done.stderr, "it ends at once, and does not try each remaining program"
    failures = [record for record in small_disk.glob("store/objects/*/*/record.json") if "failure" in record.read_text()]
    assert not failures, "a full disk is no fault of the step, and must be tried again"
