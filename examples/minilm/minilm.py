"""A sentence encoder, MiniLM-L6 (Wang et al. 2020, arXiv:2002.10957), that also says whether a film review is favourable.

    python benchmarks/fetch.py minilm
    hasten optimize examples/minilm/probe.toml --out out/minilm           # judged by labels: is the review favourable?
    hasten optimize examples/minilm/embedding.toml --out out/embedding    # judged by the encoder's own embeddings

Two named inputs, two named outputs, and a part that is trained here: a logistic probe on the frozen embeddings.
The first call of `model` embeds 4,000 snippets for that, which takes a few minutes; later calls read the probe. About 75 % accurate.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

CACHE = Path(os.environ.get("HASTEN_EXAMPLES_CACHE", "~/.cache/hasten-examples")).expanduser()
NUM_TOKENS = 64  # holds 99.9 % of the snippets whole; 48 would hold 96 %
NUM_TRAIN = 4000  # snippets that the probe is fitted on, and that hasten may train on; nothing is judged by them


class Reading(NamedTuple):
    """What the network says. The names are those of the model's outputs."""

    logits: Tensor  # N x 2: unfavourable, favourable
    embedding: Tensor  # N x 384, of length 1


class ReviewReader(nn.Module):
    """The encoder with a linear probe on its embedding. Inputs N x 64, int64: token numbers, and 1 where there is a token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.probe = nn.Linear(config.hidden_size, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Reading:
        one_sentence = torch.zeros_like(input_ids)  # given, since the encoder's own default exports into a dozen operators
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=one_sentence).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weights).sum(1) / weights.sum(1)  # a snippet has two tokens at least: its start and its end
        embedding = nn.functional.normalize(mean, dim=1)
        return Reading(logits=self.probe(embedding), embedding=embedding)


def model() -> nn.Module:
    """The encoder with its published weights and the fitted probe."""
    config = json.loads(fetched("config.json").read_text(encoding="utf8"))
    network = ReviewReader(BertConfig(**config, attn_implementation="eager"))  # exports into plain MatMul and Softmax
    weights = load_file(fetched("model.safetensors"))
    network.encoder.load_state_dict({name: w for name, w in weights.items() if not name.startswith("pooler.")}, strict=False)
    network.eval()
    probe = CACHE / f"minilm-probe-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}.safetensors"
    if not probe.exists():
        partial = probe.with_suffix(f".{os.getpid()}")
        save_file(fit_probe(network), partial)
        partial.replace(probe)  # whole or not at all, even if two processes fit at once
    network.probe.load_state_dict(load_file(probe))
    return network


def data() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The snippets that the probe was not fitted on: inputs by name, each int64 N x 64, and labels, int64 N."""
    texts, labels = snippets()
    return tokenize(texts[NUM_TRAIN:]), labels[NUM_TRAIN:]


def train() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The snippets that the probe was fitted on, in the same form: what may be trained on."""
    texts, labels = snippets()
    return tokenize(texts[:NUM_TRAIN]), labels[:NUM_TRAIN]


def unlabelled() -> dict[str, np.ndarray]:
    """The same without labels."""
    return data()[0]


def snippets() -> tuple[list[str], np.ndarray]:
    """10,603 sentences from film reviews in a fixed random order, each once, and whether people found them favourable.

    From Hutto & Gilbert, VADER, ICWSM 2014. A line holds a number, the mean rating (-4..4) and the text.
    """
    lines = fetched("movieReviewSnippets_GroundTruth.txt").read_text(encoding="utf8").splitlines()
    rating_of = {text.strip(): float(rating) for _, rating, text in (line.split("\t", 2) for line in lines)}
    texts = sorted(rating_of)
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order], np.array([rating_of[texts[i]] > 0 for i in order]).astype(np.int64)


def tokenize(texts: list[str]) -> dict[str, np.ndarray]:
    """Token numbers and mask, each int64 N x 64: cut or filled up."""
    tokenizer = Tokenizer.from_file(str(fetched("tokenizer.json")))
    tokenizer.enable_truncation(NUM_TOKENS)
    tokenizer.enable_padding(length=NUM_TOKENS)
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
    }


@torch.inference_mode()
def fit_probe(network: ReviewReader, batch_size: int = 100) -> dict[str, Tensor]:
    """The probe's weights: logistic regression on the embeddings of the first 4,000 snippets."""
    arrays, labels = train()
    embeddings = []
    for start in range(0, NUM_TRAIN, batch_size):
        inputs = {name: torch.from_numpy(array[start : start + batch_size]) for name, array in arrays.items()}
        embeddings.append(network(**inputs).embedding.numpy())
    fitted = LogisticRegression(C=10.0, max_iter=1000).fit(np.concatenate(embeddings), labels)
    half = torch.from_numpy(np.concatenate([fitted.coef_[0], fitted.intercept_]) / 2).float()
    both = torch.stack([-half, half])  # softmax of these two logits is the regression's probability
    return {"weight": both[:, :-1].contiguous(), "bias": both[:, -1].contiguous()}


def fetched(name: str) -> Path:
    """A file that benchmarks/fetch.py brought."""
    path = CACHE / "minilm" / name
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. Fetch it: `python benchmarks/fetch.py minilm`.")
    return path
