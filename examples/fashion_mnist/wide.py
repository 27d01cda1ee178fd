"""Two networks much wider than Fashion-MNIST needs, trained by hasten's own loop: what pruning, distillation and 8 bits are shown on.

    hasten optimize examples/fashion_mnist/resnet20.toml --out out/wide --train-budget 2h

A ResNet-20 with three times the usual channels (2.4 M parameters) and a MobileNetV2 without its last stage (1.0 M), at half of the
pictures' resolution. The first call of each trains for some minutes and keeps the weights; a training that was killed goes on.
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
            blocks.append(Residual(width, width_inside=num_out, num_out=num_out, stride=stride))
            width = num_out
    return trained(
        nn.Sequential(convolution(1, 48, 3, 2), *blocks, Head(width)), "resnet20", Plan(epochs=4, learning_rate=3e-3, bfloat16=True)
    )


def mobilenetv2() -> nn.Module:
    """The MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381). N x 1 x 28 x 28 -> N x 10 logits."""
    stages = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1))
    width, blocks = 32, []
    for expansion, num_out, repeats, first_stride in stages:
        for stride in (first_stride, *[1] * (repeats - 1)):
            blocks.append(Inverted(width, width_inside=width * expansion, num_out=num_out, stride=stride))
            width = num_out
    head = (convolution(width, 640), Head(640))
    return trained(nn.Sequential(convolution(1, 32, 3, 2), *blocks, *head), "mobilenetv2", Plan(epochs=5, learning_rate=3e-3))


def train() -> tuple[np.ndarray, np.ndarray]:
    """The 60,000 training pictures, uint8 N x 28 x 28, and their labels, int64 N."""
    return pictures("train")


def data() -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test pictures, and their labels."""
    return pictures("t10k")


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, num_in: int, width_inside: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(convolution(num_in, width_inside, 3, stride), linear_convolution(width_inside, num_out, 3))
        same = stride == 1 and num_in == num_out
        self.shortcut = nn.Identity() if same else linear_convolution(num_in, num_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


class Inverted(nn.Module):
    """Widen by 1 x 1, filter each channel by 3 x 3, narrow by 1 x 1; a shortcut where the shapes allow it."""

    def __init__(self, num_in: int, width_inside: int, num_out: int, stride: int) -> None:
        super().__init__()
        widen = [convolution(num_in, width_inside)] if width_inside > num_in else []
        filtered = convolution(width_inside, width_inside, 3, stride, groups=width_inside)
        self.branch = nn.Sequential(*widen, filtered, linear_convolution(width_inside, num_out, 1))
        self.has_shortcut = stride == 1 and num_in == num_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.has_shortcut else self.branch(x)


class Head(nn.Module):
    """The mean over the picture, and scores of ten classes."""

    def __init__(self, num_in: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_in, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))


def convolution(num_in: int, num_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return linear_convolution(num_in, num_out, kernel, stride, groups).append(nn.ReLU())


def linear_convolution(num_in: int, num_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation."""
    conv = nn.Conv2d(num_in, num_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(num_out))


def trained(network: nn.Module, name: str, plan: Plan) -> nn.Module:
    """`network` with its weights from the cache folder, trained first where they are not there. Their name changes with this file."""
    weights = CACHE / f"fashion-{name}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}.safetensors"
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
