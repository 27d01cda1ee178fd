"""What cutting transformers stands on: a network without a block, a head or neurons is the network that was built without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.candidate import Candidate, Floor
from hasten.core.machine import this_machine
from hasten.core.seams import Profile, Target, Training
from hasten.core.signature import Signature, TensorSpec
from hasten.techniques.structured_pruning import StructuredPruning
from hasten.train.cut import Cut, Goal, find_groups, find_sites
from hasten.train.depth import blocks, leave_out, remove
from hasten.train.lift import lift, lower
from hasten.train.shapes import fixed, heads
from hasten.train.student import Student

torch = pytest.importorskip("torch")
pruning = pytest.importorskip("torch_pruning")
nn = torch.nn

WIDTH, HEADS, HEAD, TOKENS = 24, 3, 8, 6
IDS = torch.randint(0, 50, (4, TOKENS))
MASK = torch.tensor([[1] * n + [0] * (TOKENS - n) for n in (6, 4, 2, 5)])


class SelfAttention(nn.Module):  # type: ignore[misc,name-defined]
    """open: the number of heads follows from the numbers there are; fused: one operator for all of attention; drop: of attention."""

    def __init__(self, *, open: bool, fused: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out, self.drop, self.open, self.fused = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1), open, fused

    def forward(self, x: Any, mask: Any) -> Any:
        count = -1 if self.open else HEADS
        q, k, v = (layer(x).view(x.shape[0], TOKENS, count, HEAD).transpose(1, 2) for layer in (self.query, self.key, self.value))
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            mixed = self.drop((q @ k.transpose(2, 3) * HEAD**-0.5 + mask).softmax(-1)) @ v
        return self.out(mixed.transpose(1, 2).reshape(x.shape[0], TOKENS, -1 if self.open else WIDTH))


class Layer(nn.Module):  # type: ignore[misc,name-defined]
    """An encoder layer. first: normalisation before attention and MLP, instead of after the addition (BERT)."""

    def __init__(self, *, first: bool, open: bool, fused: bool) -> None:
        super().__init__()
        self.attention, self.first = SelfAttention(open=open, fused=fused), first
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 40), nn.GELU(), nn.Linear(40, WIDTH), nn.Dropout(0.1))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, x: Any, mask: Any, *, attends: bool = True, thinks: bool = True) -> Any:
        if attends:
            x = x + self.attention(self.norms[0](x), mask) if self.first else self.norms[0](x + self.attention(x, mask))
        if thinks:
            x = x + self.mlp(self.norms[1](x)) if self.first else self.norms[1](x + self.mlp(x))
        return x


class Encoder(nn.Module):  # type: ignore[misc,name-defined]
    """Token numbers and a mask -> three scores and the mean embedding. left_out: (layer, `attends` or `thinks`) that are not computed."""

    def __init__(self, *, first: bool = False, open: bool = True, fused: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.norm, self.head, self.drop = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3), nn.Dropout(0.1)
        self.layers = nn.ModuleList(Layer(first=first, open=open, fused=fused) for _ in range(3))
        self.left_out: set[tuple[int, str]] = set()

    def forward(self, ids: Any, mask: Any) -> Any:
        x = self.drop(self.norm(self.words(ids) + self.places(torch.arange(TOKENS))))
        added = torch.where(mask.bool()[:, None, None, :], 0.0, -1e9)
        for number, layer in enumerate(self.layers):
            x = layer(x, added, **{part: False for place, part in self.left_out if place == number})
        weights = mask.unsqueeze(-1).float()
        mean = (x * weights).sum(1) / weights.sum(1)
        return self.head(mean), mean


def encoder(**how: bool) -> Any:
    torch.manual_seed(0)
    module = Encoder(**how).eval()
    with torch.no_grad():
        for norm in (m for m in module.modules() if isinstance(m, nn.LayerNorm)):
            norm.weight.uniform_(0.5, 1.5)  # two in a row are then not one
    return module


def lifted(module: Any) -> Any:
    shapes = ({0: torch.export.Dim("batch")}, {0: torch.export.Dim("batch")})
    return lift(torch.export.export(module, (IDS, MASK), dynamic_shapes=shapes))


def assert_same(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


PARTS = ("attends", "thinks")


@pytest.mark.parametrize("first", [False, True])
def test_attention_and_mlp_of_every_layer_are_blocks(first: bool) -> None:
    assert len(blocks(lifted(encoder(first=first)))) == 6


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("gone", [(0,), (3,), (5,), (2, 3), (0, 1), (1, 2, 4), (0, 1, 2, 3, 4, 5)])
def test_leaving_out_blocks_gives_the_network_that_is_built_without_them(first: bool, fused: bool, gone: tuple[int, ...]) -> None:
    module, plain = lifted(encoder(first=first, fused=fused)), encoder(first=first, fused=fused)
    names = blocks(module)
    for place in gone:
        remove(module, names[place])
        plain.left_out.add((place // 2, PARTS[place % 2]))
    assert_same(module(IDS, MASK), plain(IDS, MASK))
    assert blocks(module) == [name for place, name in enumerate(names) if place not in gone]
    kept = lifted(plain)  # what nothing needs any more is gone too
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in kept.parameters())


def test_a_group_is_offered_only_if_the_module_runs_without_a_part_of_it() -> None:
    module = lifted(encoder())
    stream = next(node for node in module.graph.nodes if str(node.target).endswith("norms_0"))
    module.register_buffer("beside", torch.ones(WIDTH))
    with module.graph.inserting_before(stream):
        weight = module.graph.get_attr("beside")
    with module.graph.inserting_after(stream):
        module.graph.call_function(torch.ops.aten.linear.default, (stream, weight))  # for nobody, so that no gradient tells of it
    module.recompile()
    found = find_groups(module, (IDS, MASK), pruning.importance.GroupMagnitudeImportance(), fixed(module), heads(module))
    assert {len(group.scores) for group in found} == {HEADS, 40}  # heads and neurons, and not what the one beside counts on
    for group in found:
        group.remove([0])
    module(IDS, MASK)


@pytest.mark.parametrize("how", [{}, {"first": True}, {"open": False}, {"fused": True}, {"fused": True, "open": False}])
def test_leaving_out_heads_gives_the_network_without_what_they_say(how: dict[str, bool]) -> None:
    module, plain = lifted(encoder(**how)), encoder(**how)
    group = next(g for g in groups_of(module) if any("layers_1_attention" in name for name in g.outputs))
    assert (group.unit, group.width) == (HEAD, HEADS)
    with torch.no_grad():
        plain.layers[1].attention.out.weight[:, HEAD : 2 * HEAD] = 0.0
    group.remove([1])
    assert_same(module(IDS, MASK), plain(IDS, MASK))
    assert module.layers_1_attention_query.out_features == (HEADS - 1) * HEAD


def test_the_planned_cut_of_heads_and_neurons_is_what_is_cut() -> None:
    module = lifted(encoder())
    cut = Cut(find_sites(module, (IDS, MASK)), groups_of(module), None)
    full = cut.price()
    gone = cut.plan(Goal(parameters=0.4, seconds=0.4, round_to=4), full)
    cut.make()
    assert {group.unit for group in cut.groups if group.gone} == {1, HEAD}
    assert find_sites(module, (IDS, MASK)) == cut.sites
    after = Cut(find_sites(module, (IDS, MASK)), groups_of(module), None).price().gone(full)
    assert (after.parameters, after.seconds) == pytest.approx((gone.parameters, gone.seconds), abs=1e-9)
    assert min(after.parameters, after.seconds) >= 0.4
    assert all(torch.isfinite(output).all() for output in module(IDS, MASK))


@pytest.mark.parametrize("idle", [(0, "attention"), (1, "mlp")])
def test_the_block_that_does_nothing_goes_first(idle: tuple[int, str], tmp_path: Path) -> None:
    plain = encoder(first=True)
    place, part = idle
    says_nothing = plain.layers[place].attention.out if part == "attention" else plain.layers[place].mlp[2]
    with torch.no_grad():
        for p in says_nothing.parameters():
            p.zero_()
    student = student_of(plain, tmp_path)
    expected = blocks(student.module)[2 * place + (part == "mlp")]
    before = student.module(IDS, MASK)
    assert leave_out(student, 1) == [expected]
    assert_same(student.module(IDS, MASK), before)
    assert len(leave_out(student, 9)) == 5


def test_the_search_cuts_transformers_in_depth_as_deep_as_they_are() -> None:
    def plans(operators: dict[str, int]) -> dict[float, int]:
        profile = Profile(machine=this_machine(), target=Target(threads=1), operators=operators)
        return {one.share: one.blocks for one in StructuredPruning.space(profile)}

    minilm = {"Softmax": 6, "MatMul": 48, "LayerNormalization": 13, "Gemm": 1}
    assert plans(minilm) == {0.3: 3, 0.5: 4, 0.7: 6, 0.8: 7, 0.9: 8}
    assert set(plans({"Conv": 21, "Relu": 19, "Gemm": 1}).values()) == {0}


def test_heads_that_something_else_counts_stay() -> None:
    class Mixed(nn.Module):  # type: ignore[misc,name-defined]
        """Heads have a parameter each, which nobody would cut."""

        def __init__(self) -> None:
            super().__init__()
            self.inside, self.scale = SelfAttention(open=True, fused=False), nn.Parameter(torch.ones(1, HEADS, 1, 1))

        def forward(self, x: Any) -> Any:
            return self.inside(x, torch.zeros(x.shape[0], 1, 1, TOKENS) * self.scale)

    x = torch.randn(4, TOKENS, WIDTH)
    module = lift(torch.export.export(Mixed().eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)))
    assert heads(module) == {}
    assert module.inside_query in fixed(module)


def student_of(plain: Any, folder: Path) -> Student:
    """Taught by itself: all that changes the loss is what is cut."""
    path = folder / "original.pt2"
    lower(plain, (IDS, MASK), path, free_batch=True)
    specs = [TensorSpec(name=name, dtype="int64", shape=(None, TOKENS)) for name in ("ids", "mask")]
    outputs = [TensorSpec(name=name, dtype="float32", shape=(None, width)) for name, width in (("scores", 3), ("mean", WIDTH))]
    original = Candidate(floor=Floor.MODULE, path=path, signature=Signature(inputs=tuple(specs), outputs=tuple(outputs)), lineage=())
    files = {name: folder / f"{name}.npy" for name in ("ids", "mask")}
    for file, values in zip(files.values(), (IDS, MASK), strict=True):
        np.save(file, values.repeat(8, 1).numpy())
    training = Training(inputs=files, labels=None, original=original, output=0, classifier=True, checkpoint=folder / "c.pt", batch_size=8)
    return Student.of(training, original, seed=0)


def groups_of(module: Any) -> Any:
    return find_groups(module, (IDS, MASK), pruning.importance.GroupMagnitudeImportance(p=2), fixed(module), heads(module))
