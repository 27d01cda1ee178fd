"""Handwritten digits: a small CNN on the data set that comes inside scikit-learn. Nothing is downloaded.

    hasten optimize examples/digits/job.toml --out out/digits --budget 5m
    python examples/digits/digits.py image.png          # writes one digit as a picture
    hasten predict out/digits image.png

A job needs two functions: one returns the trained network, one returns the data.
The first call of `model` trains for some seconds and keeps the weights; later calls read them. About 98.8 % accurate.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hasten.core.job import Job

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("HASTEN_EXAMPLES_CACHE", "~/.cache/hasten-examples")).expanduser()
NUM_TRAIN = 600  # of 1,797; hasten never sees these


class Digits(nn.Module):
    """Seven convolutions, 0.3 M parameters. Input N x 1 x 32 x 32, output N x 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(1, 32, stride=2),
            convolution(32, 32),
            convolution(32, 64, stride=2),
            convolution(64, 64),
            convolution(64, 96),
            convolution(96, 128, stride=2),
            convolution(128, 64),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image).mean((2, 3)))


def convolution(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    """3 x 3, normalised, rectified."""
    return nn.Sequential(nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU())


def model() -> nn.Module:
    """The trained network. Its weights are kept in the cache folder, under a name that changes with this file."""
    weights = CACHE / f"digits-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}.safetensors"
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        partial = weights.with_suffix(f".{os.getpid()}")
        save_file(train().state_dict(), partial)
        partial.replace(weights)  # whole or not at all, even if two processes train at once
    network = Digits()
    network.load_state_dict(load_file(weights))
    return network.eval()


def data() -> tuple[np.ndarray, np.ndarray]:
    """The 1,197 pictures that were not trained on, uint8 N x 8 x 8, and their labels, int64 N."""
    images, labels = shuffled()
    return images[NUM_TRAIN:], labels[NUM_TRAIN:]


def training() -> tuple[np.ndarray, np.ndarray]:
    """The 600 that the network was trained on, for techniques that train too."""
    images, labels = shuffled()
    return images[:NUM_TRAIN], labels[:NUM_TRAIN]


def shuffled() -> tuple[np.ndarray, np.ndarray]:
    """All 1,797 in a fixed random order; scikit-learn sorts them by writer. Its values 0..16 become 0..255."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)
    return images, digits.target[order].astype(np.int64)


def train(num_epochs: int = 6, batch_size: int = 40) -> Digits:
    """A network trained on the first 600, each seen shifted by up to 3 of 32 pixels. Takes under ten seconds."""
    preprocess = Job.read(HERE / "job.toml").data.preprocess
    assert preprocess is not None
    images, labels = shuffled()
    x = torch.from_numpy(preprocess(images[:NUM_TRAIN]))
    y = torch.from_numpy(labels[:NUM_TRAIN])
    num_threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_num_threads(1)  # sums in one order, and threads that wait for each other crawl on a busy machine
        network = Digits()
        optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.01)
        num_steps = num_epochs * (NUM_TRAIN // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=num_steps)
        for _ in range(num_epochs):
            for batch in torch.randperm(NUM_TRAIN).split(batch_size):
                down, right = torch.randint(-3, 4, (2,)).tolist()
                optimizer.zero_grad()
                shifted = x[batch].roll((down, right), (2, 3))
                nn.functional.cross_entropy(network(shifted), y[batch], label_smoothing=0.1).backward()
                optimizer.step()
                schedule.step()
    torch.set_num_threads(num_threads)
    return network


def main(path: str) -> None:
    """Write one digit that was not trained on as a picture."""
    from PIL import Image

    images, labels = data()
    Image.fromarray(images[0]).save(path)
    print(f"{path}: a picture of the digit {labels[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
