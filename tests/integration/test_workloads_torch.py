"""PyTorch modules: what is accepted, what is exported, and what is said about the rest."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.candidate import Candidate, Floor
from hasten.core.errors import DataError, ExportError, HastenError, ModelError
from hasten.core.job import Job
from hasten.workloads.torch_module import TorchModule

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

RNG = np.random.default_rng(0)
PICTURES = RNG.standard_normal((4, 1, 6, 6)).astype(np.float32)
A, B = RNG.standard_normal((4, 4)).astype(np.float32), RNG.standard_normal((4, 2)).astype(np.float32)
Pair = namedtuple("Pair", "total gap")


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, picture: Any) -> Any:
        return self.head(torch.relu(self.norm(self.conv(picture))).mean((2, 3)))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 2)

    def forward(self, a: Any, b: Any) -> Any:
        return self.fc(a) + b, a.sum(1)


class Named(Two):
    def forward(self, a: Any, scale: Any = None, *, b: Any) -> Any:
        return Pair(self.fc(a) * (1 if scale is None else scale), b - 1)


class Returns(nn.Module):
    """Whatever `function` makes of the input."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Branch(nn.Module):
    def forward(self, x: Any) -> Any:
        if x.sum() > 0:
            return x
        return -x


class ByBatch(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.reshape(1, -1) if len(x) == 1 else x * 2


def load(tmp_path: Path, module: Any, example: dict[str, np.ndarray], **model: Any) -> Candidate:
    kind = {"source": module} if isinstance(module, str) else {"module": module}
    job = Job.make({"model": {**kind, **model}, "data": {"content": 1}}, folder=tmp_path)
    assert TorchModule().fits(job) is None
    return TorchModule().open(job, example, tmp_path)


def refuses(kind: type[HastenError], message: str, tmp_path: Path, module: Any, example: dict[str, np.ndarray], **model: Any) -> None:
    with pytest.raises(kind) as caught:
        load(tmp_path, module, example, **model)
    assert str(caught.value) == message


def specs(candidate: Candidate, side: str) -> list[tuple[str, str, tuple[int | None, ...]]]:
    return [(s.name, s.dtype, s.shape) for s in getattr(candidate.signature, side)]


def program(candidate: Candidate) -> Any:
    return torch.export.load(candidate.path).module()


def test_a_network_is_exported_with_a_free_batch_axis(tmp_path: Path) -> None:
    module = Conv()
    candidate = load(tmp_path, module, {"": PICTURES.astype(np.float64)})
    assert (candidate.floor, candidate.path, candidate.lossless) == (Floor.MODULE, tmp_path / "model.pt2", True)
    assert specs(candidate, "inputs") == [("picture", "float32", (None, 1, 6, 6))]
    assert specs(candidate, "outputs") == [("output", "float32", (None, 3))]
    module.eval()
    for size in (1, 2, 4):
        x = torch.from_numpy(PICTURES[:size])
        torch.testing.assert_close(program(candidate)(x), module(x), rtol=0, atol=1e-5)


def test_two_inputs_and_two_outputs_keep_their_order(tmp_path: Path) -> None:
    candidate = load(tmp_path, Two(), {"b": B, "a": A})
    assert specs(candidate, "inputs") == [("a", "float32", (None, 4)), ("b", "float32", (None, 2))]
    assert specs(candidate, "outputs") == [("output_0", "float32", (None, 2)), ("output_1", "float32", (None,))]
    first, second = program(candidate)(torch.from_numpy(A[:1]), torch.from_numpy(B[:1]))
    torch.testing.assert_close(second, torch.from_numpy(A[:1]).sum(1))
    assert first.shape == (1, 2)


def test_named_outputs_and_keyword_inputs_are_used_by_position(tmp_path: Path) -> None:
    candidate = load(tmp_path, Named(), {"a": A, "b": B})
    assert [s[0] for s in specs(candidate, "inputs")] == ["a", "b"]
    assert [s[0] for s in specs(candidate, "outputs")] == ["total", "gap"]
    total, gap = program(candidate)(torch.from_numpy(A[:1]), torch.from_numpy(B[:1]))
    torch.testing.assert_close(gap, torch.from_numpy(B[:1]) - 1)
    assert total.shape == (1, 2)


def test_a_model_that_needs_a_batch_of_one_gets_it(tmp_path: Path) -> None:
    candidate = load(tmp_path, ByBatch(), {"": A})
    assert specs(candidate, "inputs") == [("x", "float32", (1, 4))]
    assert candidate.signature.batch == 1


def test_the_users_module_is_left_as_it_was(tmp_path: Path) -> None:
    module = Conv()
    module.train()
    module.norm.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    load(tmp_path, module, {"": PICTURES})
    assert (module.training, module.conv.training, module.norm.training) == (True, True, False)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    with pytest.raises(ModelError):
        load(tmp_path, module, {"": A})
    assert module.training


SOURCE = """
import torch
from torch import nn
def build():
    torch.manual_seed({seed})
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
def weights(): return build().state_dict()
def broken(): raise RuntimeError("no weights today")
def tied():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    return model
"""


def test_equal_content_has_an_equal_name_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE.format(seed=0))
    (tmp_path / "same.py").write_text(SOURCE.format(seed=0))
    (tmp_path / "other.py").write_text(SOURCE.format(seed=1))
    here = load(tmp_path, "net.py:build", {"": PICTURES})
    code = (
        "import numpy, pathlib; from hasten.core.job import Job; from hasten.workloads.torch_module import TorchModule;"
        f"folder = pathlib.Path({str(tmp_path)!r});"
        "job = Job.make({'model': {'source': 'same.py:build'}, 'data': {'content': 1}}, folder=folder);"
        "print(TorchModule().open(job, {'': numpy.ones((2, 1, 6, 6), 'float32')}, folder).id)"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]
    assert there == here.id
    assert load(tmp_path, "other.py:build", {"": PICTURES}).id != here.id


def test_weights_are_loaded_strictly(tmp_path: Path) -> None:
    from safetensors.torch import save_file, save_model

    (tmp_path / "net.py").write_text(SOURCE.format(seed=0))
    state = {"1.weight": torch.ones(3, 36), "1.bias": torch.zeros(3)}
    save_file(state, tmp_path / "good.safetensors")
    candidate = load(tmp_path, "net.py:build", {"": PICTURES}, weights="good.safetensors")
    torch.testing.assert_close(program(candidate)(torch.ones(2, 1, 6, 6)), torch.full((2, 3), 36.0))

    cases = {
        "model.weights: must hold all weights of the model, but lacks '1.bias'.": {"1.weight": state["1.weight"]},
        "model.weights: must hold only weights of the model, but has 'head.bias'.": {**state, "head.bias": torch.ones(1)},
        "model.weights, '1.bias': must have shape (3,), but got (4,).": {**state, "1.bias": torch.ones(4)},
        "net.py:build, parameter '1.bias': must be finite, but got 'NaN or infinity'.": {**state, "1.bias": torch.full((3,), torch.inf)},
    }
    for message, content in cases.items():
        save_file(content, tmp_path / "bad.safetensors")
        refuses(ModelError, message, tmp_path, "net.py:build", {"": PICTURES}, weights="bad.safetensors")

    import importlib

    importlib.invalidate_caches()
    from hasten.core.callables import call

    save_model(call("net.py:tied", tmp_path, field="model.source"), str(tmp_path / "tied.safetensors"))
    load(tmp_path, "net.py:tied", {"": A}, weights="tied.safetensors")


def test_weights_given_with_a_module_are_not_loaded_into_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    module = nn.Linear(4, 2)
    before = module.weight.detach().clone()
    save_file({"weight": torch.ones(2, 4), "bias": torch.zeros(2)}, tmp_path / "w.safetensors")
    candidate = load(tmp_path, module, {"": A}, weights="w.safetensors")
    assert module.weight.equal(before)
    torch.testing.assert_close(program(candidate)(torch.ones(1, 4)), torch.full((1, 2), 4.0))


def test_weight_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    refuses(ModelError, "model.weights: must be a file that exists, but got 'no.safetensors'. Paths start at the folder of the job file.",
            tmp_path, Two(), {"a": A, "b": B}, weights="no.safetensors")  # fmt: skip
    refuses(ModelError, "model.weights: must be a .safetensors file, since other formats can run code, but got 'w.pt'. "
            "Write it with safetensors.torch.save_file(model.state_dict(), PATH).",
            tmp_path, Two(), {"a": A, "b": B}, weights="w.pt")  # fmt: skip
    with pytest.raises(ModelError, match=r"^model\.weights: must be a \.safetensors file \(SafetensorError: .*\)\.$"):
        load(tmp_path, Two(), {"a": A, "b": B}, weights="broken.safetensors")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("net.py:broken", "net.py:broken: must return a torch.nn.Module, but raised RuntimeError: no weights today."),
        ("net.py:weights", "net.py:weights: must be a torch.nn.Module, but got 'an object of type OrderedDict'. "
         "Return the model itself, not its weights."),
    ],
)  # fmt: skip
def test_callables_that_give_no_module(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "net.py").write_text(SOURCE.format(seed=0))
    refuses(ModelError, message, tmp_path, source, {"": PICTURES})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (["layers"], "model: must be a torch.nn.Module, but got 'an object of type list'."),
        (Returns(lambda x: {"logits": x}), "model: must return a tensor or a tuple of tensors, but returned an object of type dict with "
         "the keys logits. Wrap the model in a module whose forward returns the values that count as a tuple."),
        (Returns(lambda x: (x, None)), "model: must return a tensor or a tuple of tensors, but returned an object of type tuple. "
         "Wrap the model in a module whose forward returns the values that count as a tuple."),
        (Returns(lambda x: (x, x.sum())), "model, output 'output_1': must return the batch as the first axis, but got ()."),
        (Returns(lambda x: x.mean(0)[None]), "model: must return the batch as the first axis, but got (1, 4)."),
        (Returns(lambda x: x * torch.nan), "model: must be finite on the data, but got 'NaN'."),
        (Returns(lambda x: x + torch.rand_like(x)), "model: must return the same for the same input, but got 'two different outputs'. "
         "Remove what is random in evaluation mode."),
        (Returns(lambda x: x.bfloat16()), "model: must have a dtype that numpy knows, but got 'torch.bfloat16'. Convert it with .float()."),
        (Returns(lambda x: x.reshape(7)), "model: must run on the data (x float32 (3, 4)), but raised RuntimeError: "
         "shape '[7]' is invalid for input of size 12."),
    ],
)  # fmt: skip
def test_models_that_cannot_be_used_are_told_in_one_line(tmp_path: Path, module: Any, message: str) -> None:
    refuses(ModelError, message, tmp_path, module, {"": A})


def test_nan_in_weights_and_buffers_is_named(tmp_path: Path) -> None:
    module = Conv()
    module.norm.running_var[1] = torch.nan
    refuses(ModelError, "model, buffer 'norm.running_var': must be finite, but got 'NaN'.", tmp_path, module, {"": PICTURES})
    module.head.bias.data[0] = -torch.inf
    refuses(ModelError, "model, parameter 'head.bias': must be finite, but got 'NaN or infinity'.", tmp_path, module, {"": PICTURES})


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"a": A, "c": B}, "input 'c': must be a parameter of the model's forward(a, b). Rename it in the data."),
        ({"a": A}, "input 'b': must be in the data, since the model is called as forward(a, b). The data have 'a'."),
        ({"": A}, "input 'b': must be in the data, since the model is called as forward(a, b). The data have one input without a name."),
    ],
)
def test_inputs_that_do_not_fit_forward(tmp_path: Path, example: dict[str, np.ndarray], message: str) -> None:
    refuses(DataError, message, tmp_path, Two(), example)


def test_an_export_that_fails_names_the_line_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        load(tmp_path, Branch(), {"": A})
    message = str(caught.value)
    assert message.startswith("model: must be exportable by torch.export, but test_workloads_torch.py line ")
    assert "(if x.sum() > 0:) raised GuardOnDataDependentSymNode: Could not guard on data-dependent expression" in message
    assert message.endswith(
        "Use tensor operations that do not depend on values (torch.where instead of if), or bring the model as an ONNX file."
    )
    assert caught.value.exit_code == 3
