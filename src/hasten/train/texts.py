"""Models that read text: which of their inputs is what, the tables they look tokens up in, and a small encoder of the same inputs and
outputs (MiniLM: Wang et al. 2020, arXiv:2002.10957; here taught by the answers alone)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import NotPossibleHere
from ..core.signature import Signature, TensorSpec
from .attention import Transformer, reading
from .lift import layer_of

if TYPE_CHECKING:
    import torch
    from torch import fx

_NUMBERS = ("int32", "int64")
_KEEPS = ("aten.to.", "aten._to_copy.", "aten.clone.", "aten.contiguous.", "aten.detach")  # what leaves token numbers what they are
_MOST_ROWS = 1 << 20  # of a table that is made up from the data: four times the largest vocabularies
_POSITIONS = 512  # where any number of tokens may come: BERT's


@dataclass(frozen=True, kw_only=True)
class Table:
    """What an input's numbers are looked up in. rows: how many there are; weights: the original's, [rows, its width], None where it was
    not found: then the rows are those that the data need, and a greater number is read as the last."""

    rows: int
    weights: torch.Tensor | None = None


def why_not(signature: Signature) -> str | None:
    """Why no encoder can be built for a model, or None. Nothing is imported."""
    if _roles(signature) is None:
        return "an encoder is built for text only: token numbers [n, tokens] (int32 or int64), with a mask and token types at most"
    if not all(spec.dtype.startswith("float") and len(spec.shape) == 2 and spec.shape[1] for spec in signature.outputs):
        return "an encoder is built for models with outputs [n, numbers] only"
    return None


def tables(module: fx.GraphModule, signature: Signature, data: Sequence[np.ndarray]) -> dict[str, Table]:
    """The tables that an encoder needs: of `tokens`, and of `types` where those are an input.

    module: the original, lifted; data: its inputs, each [N, tokens]. Raises NotPossibleHere where neither says how many rows there are.
    """
    roles = _roles(signature) or ()
    placed = [(role, place) for place, role in enumerate(roles) if role != "mask"]
    return {role: _table(module, place, signature.inputs[place].name, data[place]) for role, place in placed}


def build(
    transformer: Transformer, signature: Signature, tables: dict[str, Table], example: Sequence[torch.Tensor], *, seed: int
) -> fx.GraphModule:
    """An encoder for the model's inputs with the model's outputs, in evaluation mode, untrained but for what its tokens mean: the
    original's table by its first principal components, where it was found."""
    import torch
    from torch import fx

    roles, (tokens, *_) = _roles(signature) or (), (spec.shape[1] for spec in signature.inputs)
    outputs = tuple(spec.shape[1] or 1 for spec in signature.outputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        positions = tokens or max(_POSITIONS, example[0].shape[1])
        network = reading(transformer, roles, {role: table.rows for role, table in tables.items()}, positions, outputs)
    for role, table in tables.items():
        if table.weights is None:
            network.clamp(role)
    if (weights := tables["tokens"].weights) is not None:
        meant = principal(weights, transformer.width)
        with torch.no_grad():
            network.tables["tokens"].weight[:, : meant.shape[1]] = meant
    traced = fx.symbolic_trace(network)
    for node in traced.graph.nodes:
        if node.op == "placeholder" and not node.users:  # of inputs that the model does not have
            traced.graph.erase_node(node)
    traced.recompile()
    return traced.eval()


def principal(weights: torch.Tensor, width: int) -> torch.Tensor:
    """[rows, n] by the first `width` principal components of its rows, or all n where there are no more, the one with most variance
    first."""
    import torch

    centred = weights.double() - weights.double().mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # in ascending order
    return torch.matmul(centred, vectors.flip(1)[:, :width]).to(weights.dtype)


def _roles(signature: Signature) -> tuple[str, ...] | None:
    """What each input is: `tokens`, `mask` or `types`, by name and dtype; None where it is no text."""
    found = tuple(_role(spec) for spec in signature.inputs)
    shapes = {spec.shape[1:] for spec in signature.inputs}
    whole = all(spec.dtype in _NUMBERS for spec, role in zip(signature.inputs, found, strict=True) if role != "mask")
    right = whole and found.count("tokens") == 1 and len(set(found)) == len(found) and {len(shape) for shape in shapes} == {1}
    return found if right and len(shapes) == 1 else None


def _role(spec: TensorSpec) -> str:
    name = spec.name.lower()
    return "mask" if "mask" in name else "types" if "type" in name or "segment" in name else "tokens"


def _table(module: fx.GraphModule, place: int, name: str, values: np.ndarray) -> Table:
    weights = _looked_up(module, place)
    if weights is not None:
        return Table(rows=len(weights), weights=weights)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= _MOST_ROWS:
        raise NotPossibleHere(
            f"input {name!r}", f"must hold numbers from 0 to {_MOST_ROWS - 1:,} where the original's table of them is not found",
            got=low if low < 0 else high, hint="Let the student be a copy (same)",
        )  # fmt: skip
    return Table(rows=high + 1)


def _looked_up(module: fx.GraphModule, place: int) -> torch.Tensor | None:
    """The weights of the embedding that input number `place` is looked up in, as it is or in another dtype; None where there is none."""
    from torch import nn

    frontier = [[node for node in module.graph.nodes if node.op == "placeholder"][place]]
    while frontier:
        node = frontier.pop(0)
        for user in node.users:
            if isinstance(layer := layer_of(module, user), nn.Embedding):
                return layer.weight.detach()
            if user.op == "call_function" and any(word in str(user.target) for word in _KEEPS):
                frontier.append(user)
    return None
