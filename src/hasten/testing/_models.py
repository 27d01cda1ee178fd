"""Small real models that every plug-in is tried on: built once in a process, in seconds."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.candidate import Candidate, Floor, Step
from ..core.digest import digest_path
from ..core.machine import this_machine
from ..core.need import need
from ..core.registry import get
from ..core.seams import Context, Profile, Target, Technique
from ..core.signature import Signature, TensorSpec

NAMES = ("digits", "two-by-two", "attention")


@dataclass(frozen=True, kw_only=True)
class ReferenceModel:
    """A model with real inputs and the outputs that define right.

    module, graph: the candidate on both floors; inputs: [64, ...] by name; outputs: what PyTorch computes for them;
    calibration: .npy files of other samples by input name; operators: how many of each the graph holds.
    """

    name: str
    module: Candidate
    graph: Candidate
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    calibration: dict[str, Path]
    operators: dict[str, int]

    def on(self, floor: Floor) -> Candidate:
        """The candidate that stands on `floor`."""
        return self.module if floor is Floor.MODULE else self.graph

    def context(self, folder: Path) -> Context:
        """A technique's context that writes into `folder`."""
        return Context(folder=folder, calibration=self.calibration)

    def profile(self, objective: str = "latency", facts: frozenset[str] = frozenset()) -> Profile:
        """What is known of this model on this machine."""
        count = len(next(iter(self.inputs.values())))
        return Profile(
            machine=this_machine(),
            target=Target(threads=1),
            facts=facts,
            operators=self.operators,
            objective=objective,
            num_calibration=count,
        )


@functools.cache
def reference_model(name: str) -> ReferenceModel:
    """`digits` (a small trained convolutional classifier), `two-by-two` (two inputs and outputs) or `attention` (one block on tokens)."""
    torch = need("torch", why="for the reference models")
    torch.manual_seed(0)
    net, inputs, outputs = {"digits": _digits, "two-by-two": _two_by_two, "attention": _attention}[name](torch)
    folder = Path(_home().name) / name
    folder.mkdir()
    calibration = {key: folder / f"{key}.npy" for key in inputs}
    for key, array in inputs.items():
        np.save(calibration[key], array[64:])
    shown = {key: array[:64] for key, array in inputs.items()}
    module, expected = _export(torch, net.eval(), shown, outputs, folder)
    (folder / "graph").mkdir()
    context = Context(folder=folder / "graph", calibration=calibration)
    graph = get(Technique, "export-onnx")().apply(module, context)
    nodes = [node.op_type for node in need("onnx").load(str(graph.path)).graph.node]
    operators = {kind: nodes.count(kind) for kind in sorted(set(nodes))}
    return ReferenceModel(
        name=name, module=module, graph=graph, inputs=shown, outputs=expected, calibration=calibration, operators=operators
    )


@functools.cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="hasten-testing-")


def _export(
    torch: Any, net: Any, inputs: dict[str, np.ndarray], outputs: tuple[str, ...], folder: Path
) -> tuple[Candidate, dict[str, np.ndarray]]:
    tensors = tuple(torch.from_numpy(array) for array in inputs.values())
    with torch.inference_mode():
        results = net(*tensors)
    named = dict(zip(outputs, (t.numpy() for t in (results if isinstance(results, tuple) else (results,))), strict=True))
    batch = torch.export.Dim("batch", min=1, max=65536)
    exported = torch.export.export(net, tensors, dynamic_shapes=tuple({0: batch} for _ in tensors))
    torch.export.save(exported, folder / "model.pt2")
    signature = Signature(inputs=_specs(inputs), outputs=_specs(named))
    original = Step(name="original", options={"content": digest_path(folder / "model.pt2")})
    return Candidate(floor=Floor.MODULE, path=folder / "model.pt2", signature=signature, lineage=(original,)), named


def _specs(arrays: dict[str, np.ndarray]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype=str(a.dtype), shape=(None, *a.shape[1:])) for name, a in arrays.items())


def _digits(torch: Any) -> tuple[Any, dict[str, np.ndarray], tuple[str, ...]]:
    """Convolutions with batch normalisation, trained for a second on scikit-learn's 8x8 digits."""
    x, y = need("sklearn.datasets", why="for the reference models").load_digits(return_X_y=True)
    x = (x.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    nn = torch.nn
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 10)),
    )
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    images, labels = torch.from_numpy(x[300:]), torch.from_numpy(y[300:]).long()
    for _ in range(3):
        for rows in torch.randperm(len(images)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    return net, {"image": x[:192]}, ("logits",)


def _two_by_two(torch: Any) -> tuple[Any, dict[str, np.ndarray], tuple[str, ...]]:
    """A picture and a vector in; a classification and a score out."""
    nn = torch.nn

    class TwoByTwo(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.see, self.read = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(12, 16)
            self.classify, self.rate = nn.Linear(16, 5), nn.Linear(16, 1)

        def forward(self, picture: Any, vector: Any) -> Any:
            mixed = torch.relu(self.see(picture)).mean((2, 3)) + torch.tanh(self.read(vector))
            return self.classify(mixed), torch.sigmoid(self.rate(mixed))

    rng = np.random.default_rng(0)
    inputs = {"picture": rng.random((192, 3, 8, 8), np.float32), "vector": rng.standard_normal((192, 12), np.float32)}
    return TwoByTwo(), inputs, ("class", "score")


def _attention(torch: Any) -> tuple[Any, dict[str, np.ndarray], tuple[str, ...]]:
    """Embedding, one attention block with layer normalisation and GELU, mean over tokens."""
    nn = torch.nn
    width = 32

    class Attention(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.out = nn.Embedding(50, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.up, self.down, self.head = nn.Linear(width, 64), nn.Linear(64, width), nn.Linear(width, 4)

        def forward(self, tokens: Any) -> Any:
            x_NTC = self.embed(tokens)
            q, k, v = (t.unflatten(-1, (4, 8)).transpose(1, 2) for t in self.mix(self.norm1(x_NTC)).chunk(3, -1))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x_NTC = x_NTC + self.out(mixed)
            x_NTC = x_NTC + self.down(nn.functional.gelu(self.up(self.norm2(x_NTC))))
            return self.head(x_NTC.mean(1))

    tokens = np.random.default_rng(0).integers(0, 50, (192, 16))
    return Attention(), {"tokens": tokens}, ("logits",)
