"""A MobileNetV2-like network, trained by hasten's own loop: depthwise layers, which cuts and 8 bits find harder.

    hasten optimize examples/fashion_mnist/mobilenetv2.toml --out out/mobile --train-budget 1h

0.5 M parameters, at half of the pictures' resolution. The first call trains for some minutes on one core and keeps the weights; a training
that was killed goes on.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from wide import Head, convolution, linear_convolution, trained

from hasten.train.loop import Plan

STAGES = ((1, 16, 1, 1), (6, 32, 2, 1), (6, 64, 3, 2), (6, 96, 3, 2))
"""Expansion, channels, blocks, stride of the first block."""


def mobilenetv2() -> nn.Module:
    """Inverted residuals (Sandler et al. 2018, arXiv:1801.04381). N x 1 x 28 x 28 -> N x 10 logits."""
    width, blocks = 32, []
    for expansion, num_out, repeats, first_stride in STAGES:
        for stride in (first_stride, *[1] * (repeats - 1)):
            blocks.append(Inverted(width, width_inside=width * expansion, num_out=num_out, stride=stride))
            width = num_out
    network = nn.Sequential(convolution(1, 32, 3, 2), *blocks, convolution(width, 384, 1), Head(384))
    return trained(network, "mobilenetv2", Plan(epochs=4, learning_rate=4e-3, bfloat16=True), described_in=Path(__file__))


class Inverted(nn.Module):
    """Widen by 1 x 1, filter each channel by 3 x 3, narrow by 1 x 1; a shortcut where the shapes allow it."""

    def __init__(self, num_in: int, width_inside: int, num_out: int, stride: int) -> None:
        super().__init__()
        widen = [convolution(num_in, width_inside, 1)] if width_inside > num_in else []
        filtered = convolution(width_inside, width_inside, 3, stride, groups=width_inside)
        self.branch = nn.Sequential(*widen, filtered, linear_convolution(width_inside, num_out, 1))
        self.has_shortcut = stride == 1 and num_in == num_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.has_shortcut else self.branch(x)
