"""A network much wider than Fashion-MNIST needs, trained by hasten's own loop: what pruning, distillation and 8 bits are shown on.

    hasten optimize examples/fashion_mnist/resnet20.toml --out out/wide --train-budget 2h

A ResNet-20 with three times the usual channels, 2.4 M parameters, at half of the pictures' resolution. The first call trains for five to
fifteen minutes on one core and keeps the weights; a training that was killed goes on.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from fashion_mnist import CACHE, HERE, pictures
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hasten.core.job import Job
from hasten.train.batches import Batch, Batches
from hasten.train.loop import Plan, fit


def resnet20() -> nn.Module:
    """The wide ResNet-20 (He et al. 2015, arXiv:1512.03385). N x 1 x 28 x 28 -> N x 10 logits."""
    stages = ((48, 1), (96, 2), (192, 2))
    width, blocks = 48, []
    for num_out, first_stride in stages:
        for stride in (first_stride, 1, 1):
            blocks.append(Residual(width, num_out=num_out, stride=stride))
            width = num_out
    network = nn.Sequential(convolution(1, 48, 3, 2), *blocks, Head(width))
    return trained(network, "resnet20", Plan(epochs=4, learning_rate=3e-3, bfloat16=True), described_in=Path(__file__))


def train() -> tuple[np.ndarray, np.ndarray]:
    """The 60,000 training pictures, uint8 N x 28 x 28, and their labels, int64 N."""
    return pictures("train")


def data() -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test pictures, and their labels."""
    return pictures("t10k")


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(convolution(num_in, num_out, 3, stride), linear_convolution(num_out, num_out, 3))
        same = stride == 1 and num_in == num_out
        self.shortcut = nn.Identity() if same else linear_convolution(num_in, num_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


class Head(nn.Module):
    """The mean over the picture, and scores of ten classes."""

    def __init__(self, num_in: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_in, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))


def convolution(num_in: int, num_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return linear_convolution(num_in, num_out, kernel, stride, groups).append(nn.ReLU())


def linear_convolution(num_in: int, num_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation."""
    conv = nn.Conv2d(num_in, num_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(num_out))


def trained(network: nn.Module, name: str, plan: Plan, *, described_in: Path) -> nn.Module:
    """`network` with its weights from the cache folder, trained first where they are not there.

    described_in: the file of the network; the weights' name changes with it and with this file.
    """
    code = b"".join(path.read_bytes() for path in (Path(__file__), described_in))
    weights = CACHE / f"fashion-{name}-{hashlib.sha256(code).hexdigest()[:8]}.safetensors"
    if not weights.exists():
        preprocess = Job.read(HERE / f"{name}.toml").data.preprocess
        assert preprocess is not None
        images, labels = train()
        batches = Batches(inputs=(preprocess(images),), labels=labels, size=128, augment="flip-crop")
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums in one order, on any number of cores
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                    layer.reset_parameters()
        fit(network, batches, cross_entropy, plan, checkpoint=weights.with_suffix(".checkpoint"))
        torch.set_num_threads(num_threads)
        partial = weights.with_suffix(f".{os.getpid()}")
        save_file(network.state_dict(), partial)
        partial.replace(weights)
    network.load_state_dict(load_file(weights))
    return network.eval()


def cross_entropy(network: nn.Module, batch: Batch) -> Tensor:
    """The loss of one batch."""
    assert batch.labels is not None
    return nn.functional.cross_entropy(network(*batch.inputs).float(), batch.labels)
