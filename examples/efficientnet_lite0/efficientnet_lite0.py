"""EfficientNet-Lite0 with its ImageNet weights, on ImageNet pictures of yours.

    python benchmarks/fetch.py efficientnet_lite0
    HASTEN_DATA=/path/to/data hasten optimize examples/efficientnet_lite0/job.toml --out out/efficientnet_lite0

$HASTEN_DATA is a folder that holds imagenet-pictures.parquet: columns image (encoded bytes) and label (0..999).
It is not part of the project, since ImageNet's pictures may not be passed on.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

CACHE = Path(os.environ.get("HASTEN_EXAMPLES_CACHE", "~/.cache/hasten-examples")).expanduser()


def model() -> nn.Module:
    """The trained network. Input N x 3 x 224 x 224, output N x 1000 logits."""
    weights = CACHE / "efficientnet-lite0" / "efficientnet-lite0-57934424.pth"
    if not weights.exists():
        raise FileNotFoundError(f"{weights} does not exist. Fetch it: `python benchmarks/fetch.py efficientnet_lite0`.")
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(weights, weights_only=True))  # tensors only: nothing in the file is run
    return network.eval()


def data() -> tuple[list[bytes], np.ndarray]:
    """The pictures as encoded bytes, and their labels, int64 N."""
    path = Path(os.environ.get("HASTEN_DATA", ".")).expanduser() / "imagenet-pictures.parquet"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. HASTEN_DATA must name the folder that holds it")
    table = pq.read_table(path, columns=["image", "label"])
    return table["image"].to_pylist(), table["label"].to_numpy().astype(np.int64)


class EfficientNetLite0(nn.Module):
    """EfficientNet (Tan & Le 2019, arXiv:1905.11946) without squeeze-and-excitation, and with ReLU6: TensorFlow's
    models/official/efficientnet/lite. The parameter names are those of the published PyTorch weights."""

    # Repeats, kernel, stride of the first repeat, expansion, output channels.
    STAGES = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, kernel=3, stride=2)
        self._bn0 = normalisation(32)
        blocks, width = [], 32
        for num_repeats, kernel, first_stride, expansion, num_out in self.STAGES:
            for repeat in range(num_repeats):
                blocks.append(MBConv(width, num_out, kernel, 1 if repeat else first_stride, expansion))
                width = num_out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SameConv2d(width, 1280, kernel=1)
        self._bn1 = normalisation(1280)
        self._fc = nn.Linear(1280, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.relu6(self._bn0(self._conv_stem(image)))
        x = nn.functional.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(x.mean((2, 3)))


class MBConv(nn.Module):
    """Widen by 1 x 1, filter each channel, narrow by 1 x 1; a shortcut where the shapes allow it."""

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = num_in * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = SameConv2d(num_in, hidden, kernel=1)
            self._bn0 = normalisation(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = normalisation(hidden)
        self._project_conv = SameConv2d(hidden, num_out, kernel=1)
        self._bn2 = normalisation(num_out)
        self.shortcut = stride == 1 and num_in == num_out

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow pads an even number of pixels: with stride 2, one more at the bottom right."""

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        even = stride == 1
        super().__init__(num_in, num_out, kernel, stride, padding=kernel // 2 if even else 0, groups=groups, bias=False)
        before, after = (kernel - 2) // 2, (kernel - 1) // 2
        self.uneven = None if even else (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.uneven is None else nn.functional.pad(x, self.uneven))


def normalisation(num_channels: int) -> nn.BatchNorm2d:
    """TensorFlow's epsilon and momentum."""
    return nn.BatchNorm2d(num_channels, eps=1e-3, momentum=0.01)
