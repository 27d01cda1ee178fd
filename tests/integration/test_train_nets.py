"""What students that are built stand on: what is priced is what is built, every kind learns and leaves as it is asked, and text is told
from the rest."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.errors import NotPossibleHere
from hasten.core.machine import this_machine
from hasten.core.registry import get
from hasten.core.seams import Context, Profile, Runtime, Target, Technique, Training
from hasten.core.signature import Signature, TensorSpec
from hasten.testing._models import ReferenceModel, reference_model
from hasten.train import nets, texts
from hasten.train.attention import HEAD, Transformer
from hasten.train.cut import find_groups, find_sites
from hasten.train.lift import flat_outputs, lower, read_module
from hasten.train.shapes import fixed, heads

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")
nn = torch.nn

PROFILE = Profile(machine=this_machine(), target=Target(threads=1), num_train=100, epoch_seconds=1.0)
SHAPES = [(1, 28, 28), (3, 96, 96), (3, 224, 224), (2, 12, 10), (1, 8, 8), (1, 3, 90)]
TOKENS, WORDS = 16, 20
ORDERS = [("tokens",), ("tokens", "mask"), ("mask", "types", "tokens")]
NAMES = {"tokens": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}


class Reader(nn.Module):  # type: ignore[misc,name-defined]
    """Scores and an embedding of digits that are read as words: what a sentence encoder takes and gives. found: words are in a
    table."""

    def __init__(self, roles: tuple[str, ...], *, found: bool) -> None:
        super().__init__()
        self.roles, self.found = roles, found
        self.words, self.types, self.place = nn.Embedding(WORDS, 40), nn.Embedding(2, 40), nn.Embedding(64, 40)
        self.mix, self.classify = nn.Linear(40, 24), nn.Linear(24, 10)

    def forward(self, first: Any, second: Any = None, third: Any = None) -> Any:
        given = dict(zip(self.roles, (first, second, third), strict=False))
        ids = given["tokens"].to(torch.int64)
        places = torch.ones_like(ids).cumsum(1)  # a table too, and not of words
        words = self.words(ids) if self.found else nn.functional.one_hot(ids, WORDS).float() @ self.words.weight
        x = words + self.place(places)
        x = x + self.types(given["types"]) if "types" in given else x
        weights = given["mask"].unsqueeze(-1).float() if "mask" in given else torch.ones_like(ids).unsqueeze(-1).float()
        embedding = torch.tanh(self.mix((torch.relu(x) * weights).sum(1) / weights.sum(1)))
        return self.classify(embedding), embedding


def digits(roles: tuple[str, ...], rows: slice) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Real digits: the ink of 16 squares as words, those after a number of them masked, and on which half they are."""
    x, y = datasets.load_digits(return_X_y=True)
    ids = x[rows].reshape(-1, 4, 2, 4, 2).mean((2, 4)).round().astype(np.int64).reshape(-1, TOKENS)
    lengths = 10 + np.arange(len(ids)) % 7
    inputs = {
        "tokens": ids,
        "mask": (np.arange(TOKENS) < lengths[:, None]).astype(np.int64),
        "types": np.repeat((np.arange(TOKENS) >= TOKENS // 2).astype(np.int64)[None], len(ids), axis=0),
    }
    return {NAMES[role]: inputs[role] for role in roles}, y[rows].astype(np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """A reader on the module floor, and what it is taught with."""

    original: Candidate
    train: dict[str, np.ndarray]
    labels: np.ndarray

    def context(self, folder: Path) -> Context:
        (folder / "out").mkdir(parents=True)
        for name, values in self.train.items():
            np.save(folder / f"{name}.npy", values)
        np.save(folder / "labels.npy", self.labels)
        files = {name: folder / f"{name}.npy" for name in self.train}
        training = Training(
            inputs=files, labels=folder / "labels.npy", original=self.original, output=0, classifier=True, checkpoint=folder / "c.pt",
            batch_size=32, answers=folder / "answers",
        )  # fmt: skip
        return Context(folder=folder / "out", calibration=files, training=training)


def text(folder: Path, roles: tuple[str, ...] = ("tokens", "mask"), *, found: bool = True, free: bool = False) -> Text:
    """free: whether any number of tokens may come."""
    torch.manual_seed(0)
    module, (train, labels) = Reader(roles, found=found), digits(roles, slice(0, 640))
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for start in range(0, 640, 64):
        scores, _ = module(*(torch.from_numpy(values[start : start + 64]) for values in train.values()))
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores, torch.from_numpy(labels[start : start + 64])).backward()
        optimizer.step()
    example = [torch.from_numpy(values[:4]) for values in train.values()]
    lower(module, example, folder / "reader.pt2", free_batch=True, free=[[1] if free else []] * len(roles))
    inputs = tuple(TensorSpec(name=name, dtype="int64", shape=(None, None if free else TOKENS)) for name in train)
    outputs = tuple(TensorSpec(name=name, dtype="float32", shape=(None, n)) for name, n in (("logits", 10), ("embedding", 24)))
    original = Candidate(
        floor=Floor.MODULE, path=folder / "reader.pt2", signature=Signature(inputs=inputs, outputs=outputs),
        lineage=(Step(name="reader"),),
    )  # fmt: skip
    return Text(original=original, train=train, labels=labels)


def pictures(model: ReferenceModel, folder: Path) -> Context:
    (folder / "out").mkdir(parents=True)
    training = Training(
        inputs=model.calibration, labels=None, original=model.module, output=0, classifier=True, checkpoint=folder / "c.pt", batch_size=16,
        answers=folder / "answers",
    )  # fmt: skip
    return Context(folder=folder / "out", calibration=model.calibration, training=training)


def taught(kind: str, folder: Path, **options: Any) -> tuple[Candidate, list[np.ndarray]]:
    """A student of that kind, and samples that it was not taught with."""
    options = {"epochs": 4, "width": 8, "seed": 0, **options}
    seed = options.pop("seed")
    if kind == "encoder":
        folder.mkdir(parents=True)
        given = text(folder)
        original, context = given.original, given.context(folder / "work")
        others = [*digits(("tokens", "mask"), slice(700, 733))[0].values()]
    else:
        model = reference_model("digits")
        original, context = model.module, pictures(model, folder)
        others = list(model.inputs.values())
    technique = get(Technique, "distillation")(student=kind, **options)
    assert technique.fits(original, PROFILE) is None
    return technique.apply(original, dataclasses.replace(context, seed=seed)), others


def answers(candidate: Candidate, inputs: list[np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        return [out.numpy() for out in flat_outputs(read_module(candidate.path)(*map(torch.from_numpy, inputs)))]


def as_graph(candidate: Candidate, folder: Path) -> Candidate:
    folder.mkdir()
    return get(Technique, "export-onnx")().apply(candidate, Context(folder=folder, calibration={}))


def run(candidate: Candidate, inputs: list[np.ndarray], folder: Path) -> list[np.ndarray]:
    runtime, target = get(Runtime, "onnxruntime")(), Target(threads=1)
    folder.mkdir()
    runtime.compile(candidate, target, folder)
    named = {spec.name: values for spec, values in zip(candidate.signature.inputs, inputs, strict=True)}
    return list(runtime.load(folder, target).run(named).values())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [*nets.PICTURES, "mlp"])
def test_what_is_priced_is_what_is_built_for_pictures_of_every_size(kind: str, shape: tuple[int, ...]) -> None:
    described = nets.described(kind, width=8, depth=2, shape=shape)
    assert not isinstance(described, Transformer)
    x = torch.randn(2, *shape)
    network = nets.build(described, (x,), 5, seed=0)
    priced = nets.sites(described, shape, 5)
    assert Counter(find_sites(network, (x,)).values()) == Counter(priced)
    assert network(x).shape == (2, 5)
    assert described.text


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["mobilenetv2", "efficientnet-lite", "vit"])
def test_a_picture_is_not_halved_to_nothing_nor_left_large(kind: str, shape: tuple[int, ...]) -> None:
    described: Any = nets.described(kind, width=8, depth=1, shape=shape)
    convolutions = [site for site in nets.sites(described, shape, 5) if not site.linear]
    height, width = nets.after(convolutions[-1])
    assert min(height, width) >= min(3, -(-min(shape[1:]) // 2)) or kind == "vit"
    assert height * width <= 64 or min(height, width) <= 4


def test_efficientnet_lite_has_filters_of_both_sizes_and_is_wider_inside() -> None:
    sites = nets.sites(nets.described("efficientnet-lite", width=8, depth=1, shape=(3, 28, 28)), (3, 28, 28), 5)
    assert {site.kernel for site in sites if site.depthwise} == {(3, 3), (5, 5)}
    outs = [before for before, after in itertools.pairwise(sites) if after.depthwise and before.kernel == (1, 1)]
    assert {site.num_out / site.num_in for site in outs} == {6.0}


@pytest.mark.parametrize(("width", "wide"), [(1, HEAD), (HEAD, HEAD), (HEAD + 1, 2 * HEAD), (100, 4 * HEAD)])
def test_transformers_are_whole_heads_wide(width: int, wide: int) -> None:
    vit, encoder = (nets.described(kind, width=width, depth=1, shape=(1, 28, 28)) for kind in ("vit", "encoder"))
    assert isinstance(vit, nets.VisionTransformer)
    assert isinstance(encoder, Transformer)
    assert vit.blocks.width == encoder.width == wide


@pytest.mark.parametrize("kind", nets.KINDS)
def test_every_kind_loses_less_than_at_the_start_and_is_the_same_onnx_graph(kind: str, tmp_path: Path) -> None:
    after, others = taught(kind, tmp_path / "a")
    losses = [float(word.split()[0]) for word in after.notes[-1].split("loss ")[1].split("and ")]
    assert losses[1] < losses[0]
    ours = answers(after, others)
    assert [out.shape for out in ours] == [(len(others[0]), spec.shape[1]) for spec in after.signature.outputs]
    for got, wanted in zip(run(as_graph(after, tmp_path / "graph"), others, tmp_path / "program"), ours, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", nets.KINDS)
def test_a_seed_decides_every_bit(kind: str, tmp_path: Path) -> None:
    one, two, other = (taught(kind, tmp_path / name, epochs=1, seed=seed)[0] for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    a, b, c = (torch.export.load(candidate.path).state_dict for candidate in (one, two, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("kind", ["vit", "encoder"])
def test_a_transformer_that_was_taught_can_lose_heads_and_neurons(kind: str, tmp_path: Path) -> None:
    pruning = pytest.importorskip("torch_pruning")
    after, others = taught(kind, tmp_path / "a", width=2 * HEAD, depth=2, epochs=1)
    module, example = read_module(after.path), tuple(torch.from_numpy(values[:4]) for values in others)
    assert len(heads(module)) == 2 * 3
    groups = find_groups(module, example, pruning.importance.GroupMagnitudeImportance(), fixed(module), heads(module))
    inside = [(group.unit, group.width) for group in groups if any("blocks" in name for name in group.outputs)]
    stream = (1, 2 * HEAD)  # all that tokens are made of
    assert sorted(inside) == [stream, *[(1, 8 * HEAD)] * 2, *[(HEAD, 2)] * 2]
    for group in groups:
        group.remove([0])
    lower(module, example, tmp_path / "cut.pt2", free_batch=True)
    cut = dataclasses.replace(after, path=tmp_path / "cut.pt2")
    assert [out.shape[1] for out in answers(cut, others)] == [spec.shape[1] for spec in after.signature.outputs]
    queries = [site for name, site in find_sites(read_module(cut.path), example).items() if "query" in name]
    assert [(site.num_in, site.num_out) for site in queries] == [(2 * HEAD - 1, HEAD)] * 2


@pytest.mark.parametrize("kind", ["efficientnet-lite", "vit", "encoder"])
def test_a_student_in_8_bits_says_nearly_what_it_said(kind: str, tmp_path: Path) -> None:
    after, others = taught(kind, tmp_path / "a", width=16)
    graph, folder = as_graph(after, tmp_path / "graph"), tmp_path / "int8"
    folder.mkdir()
    samples = {spec.name: tmp_path / f"{spec.name}.npy" for spec in after.signature.inputs}
    for path, values in zip(samples.values(), others, strict=True):
        np.save(path, values)
    small = get(Technique, "static-int8")().apply(graph, Context(folder=folder, calibration=samples))
    ours = answers(after, others)[0]
    error = run(small, others, tmp_path / "program")[0] - ours
    assert 10 * np.log10(np.square(ours).sum() / np.square(error).sum()) > 10.0


@pytest.mark.parametrize("roles", ORDERS, ids=str)
def test_an_encoder_takes_what_the_original_takes(roles: tuple[str, ...], tmp_path: Path) -> None:
    given = text(tmp_path, roles)
    after = get(Technique, "distillation")(student="encoder", epochs=1).apply(given.original, given.context(tmp_path / "work"))
    others = [*digits(roles, slice(700, 707))[0].values()]
    ours = answers(after, others)
    assert [out.shape for out in ours] == [(7, 10), (7, 24)]
    for role, place in ((role, place) for place, role in enumerate(roles) if role != "mask"):
        changed = [values.copy() for values in others]
        changed[place] = 1 - changed[place] if role == "types" else (changed[place] + 1) % WORDS
        assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(ours, answers(after, changed), strict=True))


def test_what_is_masked_says_nothing_and_how_much_of_it_there_is_neither(tmp_path: Path) -> None:
    given = text(tmp_path, free=True)
    after = get(Technique, "distillation")(student="encoder", epochs=1).apply(given.original, given.context(tmp_path / "work"))
    ids, mask = (values[:7] for values in digits(("tokens", "mask"), slice(700, 707))[0].values())
    mask = (np.arange(TOKENS) < 10).astype(np.int64)[None].repeat(7, 0)
    ours = answers(after, [ids, mask])
    longer = [np.pad(ids, ((0, 0), (0, 9)), constant_values=3), np.pad(mask, ((0, 0), (0, 9)))]
    others = [[np.where(mask, ids, 3), mask], [ids[:, :10], mask[:, :10]], longer]
    graph = as_graph(after, tmp_path / "graph")
    for number, same in enumerate(others):
        for theirs in (answers(after, same), run(graph, same, tmp_path / f"program{number}")):
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert np.isfinite(answers(after, [ids, np.zeros_like(mask)])[0]).all()


def test_an_encoder_starts_with_what_the_originals_words_mean(tmp_path: Path) -> None:
    given = text(tmp_path)
    module, data = read_module(given.original.path), list(given.train.values())
    tables = texts.tables(module, given.original.signature, data)
    weights = tables["tokens"].weights
    assert weights is not None
    assert torch.equal(weights, module.words.weight)  # and not the places
    example = [torch.from_numpy(values[:4]) for values in data]
    wide = texts.build(Transformer(width=64, depth=1), given.original.signature, tables, example, seed=0)
    ours = wide.tables.tokens.weight.detach()[:, :40]
    torch.testing.assert_close(torch.cdist(ours, ours), torch.cdist(weights, weights), rtol=1e-4, atol=1e-4)  # turned and moved
    narrow = texts.principal(weights, 8)
    _, values, _ = torch.linalg.svd(weights - weights.mean(0))
    torch.testing.assert_close(narrow.square().sum(0), values[:8].square(), rtol=1e-4, atol=1e-4)


def test_without_the_originals_table_the_data_say_how_many_words_there_are(tmp_path: Path) -> None:
    given = text(tmp_path, found=False)
    after = get(Technique, "distillation")(student="encoder", epochs=1).apply(given.original, given.context(tmp_path / "work"))
    last = int(given.train["input_ids"].max())
    assert any(f"table of tokens was not found: it has the {last + 1} rows" in note for note in after.notes)
    ids, mask = digits(("tokens", "mask"), slice(700, 707))[0].values()
    known, unknown = ids.copy(), ids.copy()
    known[:, 0], unknown[:, 0] = last, WORDS + 1000
    for a, b in zip(answers(after, [known, mask]), answers(after, [unknown, mask]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrong", [-1, 1 << 30])
def test_numbers_that_cannot_be_a_table_are_refused(wrong: int, tmp_path: Path) -> None:
    given = text(tmp_path, found=False)
    data = [values.copy() for values in given.train.values()]
    data[0][3, 3] = wrong
    with pytest.raises(NotPossibleHere, match=rf"input 'input_ids': must hold numbers from 0 to 1,048,575 .* but got {wrong}"):
        texts.tables(read_module(given.original.path), given.original.signature, data)


IMAGE = TensorSpec(name="image", dtype="float32", shape=(None, 3, 32, 32))
IDS = TensorSpec(name="ids", dtype="int64", shape=(None, 16))
MASK = dataclasses.replace(IDS, name="mask", dtype="bool")
SCORES = TensorSpec(name="logits", dtype="float32", shape=(None, 10))
NO_TEXT = "an encoder is built for text only"


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "reason"),
    [
        *((kind, (IMAGE,), (SCORES,), "") for kind in nets.KINDS if kind != "encoder"),
        *((kind, (IDS,), (SCORES,), "pictures only") for kind in nets.PICTURES),
        *((kind, (IMAGE, IMAGE), (SCORES,), "one input and one output only") for kind in nets.KINDS if kind != "encoder"),
        ("vit", (dataclasses.replace(IMAGE, shape=(None, 3, None, 32)),), (SCORES,), "pictures of one size only"),
        ("encoder", (IDS,), (SCORES, SCORES), ""),
        ("encoder", (MASK, IDS), (SCORES,), ""),
        ("encoder", (IMAGE,), (SCORES,), NO_TEXT),
        ("encoder", (MASK,), (SCORES,), NO_TEXT),
        ("encoder", (IDS, IDS), (SCORES,), NO_TEXT),
        ("encoder", (dataclasses.replace(IDS, dtype="float32"), MASK), (SCORES,), NO_TEXT),
        ("encoder", (IDS, dataclasses.replace(MASK, shape=(None, 1, 16))), (SCORES,), NO_TEXT),
        ("encoder", (IDS, dataclasses.replace(MASK, shape=(None, 8))), (SCORES,), NO_TEXT),
        ("encoder", (IDS,), (dataclasses.replace(SCORES, shape=(None, 16, 10)),), "outputs [n, numbers] only"),
        ("encoder", (IDS,), (SCORES, dataclasses.replace(SCORES, dtype="int64")), "outputs [n, numbers] only"),
    ],
)
def test_a_model_that_a_kind_is_not_for_is_refused_in_one_sentence(
    kind: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], reason: str
) -> None:
    original = Candidate(
        floor=Floor.MODULE, path=Path("m.pt2"), signature=Signature(inputs=inputs, outputs=outputs), lineage=(Step(name="m"),)
    )
    told = get(Technique, "distillation")(student=kind).fits(original, PROFILE)
    assert (told is None) if not reason else (told is not None and reason in told and "\n" not in told)


@pytest.mark.parametrize(
    ("operators", "kinds"),
    [
        ({}, ["resnet", "same"]),
        ({"Conv": 5, "Softmax": 1, "MatMul": 2, "Gather": 1}, ["resnet", "same"]),
        ({"Softmax": 2, "MatMul": 12}, ["resnet", "same"]),
        ({"Softmax": 2, "MatMul": 12, "Gather": 1}, ["resnet", "same", "encoder"]),
    ],
)
def test_an_encoder_is_tried_where_the_graph_looks_up_and_attends(operators: dict[str, int], kinds: list[str]) -> None:
    profile = dataclasses.replace(PROFILE, operators=operators)
    assert [one.student for one in get(Technique, "distillation").space(profile)] == kinds  # type: ignore[attr-defined]
