"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): a small CNN trained on the 60,000, made fast on the 10,000.

    hasten optimize examples/fashion_mnist/job.toml --out out/fashion_mnist

The first call of `model` trains for two or three minutes and keeps the weights; later calls read them. 91.9 % accurate.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hasten.core.job import Job

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("HASTEN_EXAMPLES_CACHE", "~/.cache/hasten-examples")).expanduser()


class FashionNet(nn.Module):
    """Five convolutions, 0.25 M parameters. Input N x 1 x 28 x 28, output N x 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(1, 16),
            nn.MaxPool2d(2),
            convolution(16, 32),
            convolution(32, 64, stride=2),
            convolution(64, 128, stride=2),
            convolution(128, 128),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image).mean((2, 3)))


def convolution(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    """3 x 3, normalised, rectified."""
    return nn.Sequential(nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU())


def model() -> nn.Module:
    """The trained network. Its weights are kept in the cache folder, under a name that changes with this file."""
    weights = CACHE / f"fashion-mnist-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}.safetensors"
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        partial = weights.with_suffix(f".{os.getpid()}")
        save_file(train().state_dict(), partial)
        partial.replace(weights)  # whole or not at all, even if two processes train at once
    network = FashionNet()
    network.load_state_dict(load_file(weights))
    return network.eval()


def data() -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test pictures, uint8 N x 28 x 28, and their labels, int64 N."""
    return pictures("t10k")


def pictures(part: Literal["train", "t10k"]) -> tuple[np.ndarray, np.ndarray]:
    """One of the two published parts: pictures and labels, in the IDX format (a short header, then raw bytes)."""
    folder = data_folder()
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8).astype(np.int64),
    )


def data_folder() -> Path:
    """Where the four files lie: installed, fetched, or under $HASTEN_DATA."""
    roots = [Path("/usr/share/datasets"), CACHE, Path(os.environ.get("HASTEN_DATA", CACHE))]
    for folder in (root / "fashion-mnist" for root in roots):
        if (folder / "t10k-images-idx3-ubyte.gz").exists():
            return folder
    raise FileNotFoundError(
        "Fashion-MNIST is not here. Run `apt-get install dataset-fashion-mnist` or `python benchmarks/fetch.py fashion_mnist`, "
        "or put its four .gz files into $HASTEN_DATA/fashion-mnist"
    )


def train(num_epochs: int = 3, batch_size: int = 100) -> FashionNet:
    """A network trained on the 60,000, half of each batch mirrored."""
    preprocess = Job.read(HERE / "job.toml").data.preprocess
    assert preprocess is not None
    images, labels = pictures("train")
    x = torch.from_numpy(preprocess(images))
    y = torch.from_numpy(labels)
    num_threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_num_threads(1)  # sums in one order, and threads that wait for each other crawl on a busy machine
        network = FashionNet()
        optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0.02)
        num_steps = num_epochs * (len(y) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=num_steps)
        for _ in range(num_epochs):
            for batch in torch.randperm(len(y)).split(batch_size):
                image = x[batch]
                image[::2] = image[::2].flip(3)
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(image), y[batch]).backward()
                optimizer.step()
                schedule.step()
    torch.set_num_threads(num_threads)
    return network
