"""CIFAR-10 with two trained networks: ResNet-20 at 32 pixels and MobileNetV2 at 96.

    HASTEN_DATA=/path/to/data hasten optimize examples/cifar10/resnet20.toml --out out/resnet20

Pictures and weights are not part of the project. $HASTEN_DATA is a folder that holds

    cifar10-jpeg-test.parquet                        columns image (JPEG bytes) and label (0..9); 10,000 rows
    cifar10-jpeg-train.parquet                       the same, 50,000 rows: only for techniques that train
    models/resnet20-cifar10.safetensors              81.96 % of those pictures right
    models/mobilenetv2-cifar10-96px.safetensors      86.96 %

The pictures are JPEGs, so these accuracies compare with one another and not with those published for the lossless set.
The job files say how a picture becomes a tensor; the data stay encoded until then.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor, nn


def resnet20() -> nn.Module:
    """ResNet-20 with its trained weights. Input N x 3 x 32 x 32."""
    return trained(ResNet(num_blocks=3), "resnet20-cifar10.safetensors")


def mobilenetv2() -> nn.Module:
    """MobileNetV2 with its trained weights. Input N x 3 x 96 x 96."""
    return trained(MobileNetV2(), "mobilenetv2-cifar10-96px.safetensors")


def data() -> tuple[list[bytes], np.ndarray]:
    """The 10,000 test pictures as encoded bytes, and their labels, int64 N."""
    table = pq.read_table(data_file("cifar10-jpeg-test.parquet"))
    return table["image"].to_pylist(), table["label"].to_numpy().astype(np.int64)


def train() -> tuple[list[bytes], np.ndarray]:
    """The 50,000 training pictures as encoded bytes, and their labels, int64 N."""
    table = pq.read_table(data_file("cifar10-jpeg-train.parquet"))
    return table["image"].to_pylist(), table["label"].to_numpy().astype(np.int64)


def few() -> tuple[list[bytes], np.ndarray]:
    """The first 5,000 of them: enough where a network only learns to live with 8 bits."""
    images, labels = train()
    return images[:5_000], labels[:5_000]


def trained(network: nn.Module, weights: str) -> nn.Module:
    """`network` with the weights in $HASTEN_DATA/models."""
    network.load_state_dict(load_file(data_file(f"models/{weights}")))
    return network.eval()


def data_file(name: str) -> Path:
    """`name` in $HASTEN_DATA."""
    folder = os.environ.get("HASTEN_DATA")
    if folder is None:
        raise FileNotFoundError("HASTEN_DATA is not set. It must name the folder with the files that examples/README.md lists")
    path = Path(folder).expanduser() / name
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. HASTEN_DATA must name the folder with the files that examples/README.md lists")
    return path


class ResNet(nn.Module):
    """The CIFAR form of He et al. 2015 (arXiv:1512.03385): 6n + 2 layers, n = num_blocks a stage. N x 3 x 32 x 32 -> N x 10 logits."""

    def __init__(self, num_blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        blocks, width = [], 16
        for num_out in (16, 32, 64):
            for _ in range(num_blocks):
                blocks.append(BasicBlock(width, num_out))
                width = num_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(image)).mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut. A block that widens halves the resolution and projects its shortcut."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        stride = 1 if num_in == num_out else 2
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.down: nn.Module = nn.Identity()
        if stride == 2:
            self.down = nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.down(x))


class MobileNetV2(nn.Module):
    """Sandler et al. 2018 (arXiv:1801.04381), with torchvision's parameter names. N x 3 x H x W -> N x 10 logits."""

    # Table 2 of the paper: expansion, output channels, repeats, stride of the first repeat.
    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution(3, 32, kernel=3, stride=2)]
        width = 32
        for expansion, num_out, num_repeats, first_stride in self.STAGES:
            for repeat in range(num_repeats):
                layers.append(InvertedResidual(width, num_out, expansion, stride=1 if repeat else first_stride))
                width = num_out
        layers.append(convolution(width, 1280))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image).mean((2, 3)))


class InvertedResidual(nn.Module):
    """Widen by 1 x 1, filter each channel by 3 x 3, narrow by 1 x 1; a shortcut where the shapes allow it."""

    def __init__(self, num_in: int, num_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = num_in * expansion
        layers: list[nn.Module] = [convolution(num_in, hidden)] if expansion > 1 else []
        layers += [
            convolution(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, num_out, 1, bias=False),
            nn.BatchNorm2d(num_out),
        ]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and num_in == num_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


def convolution(num_in: int, num_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU6(),
    )
