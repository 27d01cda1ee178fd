"""A small vision transformer, trained by hasten's own loop: whole blocks, heads and neurons can go, and matrix products gain from 8 bits.

    hasten optimize examples/fashion_mnist/vit.toml --out out/vit --train-budget 1h

1.3 M parameters, 16 tokens. The first call trains for some minutes on one core and keeps the weights; a training that was killed goes on.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from wide import convolution, linear_convolution, trained

from hasten.train.loop import Plan

WIDTH, DEPTH, HEAD, TOKENS = 128, 6, 32, 16


def vit() -> nn.Module:
    """Dosovitskiy et al. 2020, arXiv:2010.11929, with convolutions instead of patches (Xiao et al. 2021, arXiv:2106.14881) and the mean
    of the tokens instead of one of its own. N x 1 x 28 x 28 -> N x 10 logits."""
    return trained(VisionTransformer(), "vit", Plan(epochs=6, learning_rate=1e-3), described_in=Path(__file__))


class VisionTransformer(nn.Module):
    """A stem of three convolutions, encoder blocks, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(1, 32, 3, 2), convolution(32, 64, 3, 2), linear_convolution(64, WIDTH, 3, 2))
        self.position = nn.Parameter(0.02 * torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)))
        self.attention = nn.ModuleList(Attention() for _ in range(DEPTH))
        self.mlp = nn.ModuleList(Mlp() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.position
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            x = x + attention(x)
            x = x + mlp(x)
        return self.head(self.norm(x).mean(1))


class Attention(nn.Module):
    """Normalisation and self-attention of heads of equal width."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        num, tokens, _ = x.shape
        x = self.norm(x)
        q, k, v = (layer(x).view(num, tokens, -1, HEAD).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(num, tokens, -1))


class Mlp(nn.Module):
    """Normalisation, and two linear layers that widen and narrow four times."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(nn.functional.gelu(self.widen(self.norm(x))))
