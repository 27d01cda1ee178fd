"""Transformers as students have them: blocks of attention and MLP that are normalised first, and nothing that ties widths to numbers
written elsewhere, so that what was taught can be cut."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.widths import Site

if TYPE_CHECKING:
    import torch
    from torch import nn

HEAD = 32  # numbers of a head, as in MiniLM and TinyViT
_WIDER = 4  # times, inside an MLP
_SPREAD = 0.02  # of learnt positions and tables before training, as BERT's
_HIDDEN = -1e4  # added to the scores of what is masked: nothing after a softmax, and still a number in float16


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """Blocks on tokens (Vaswani et al. 2017, arXiv:1706.03762), normalised first (Xiong et al. 2020, arXiv:2002.04745). width: numbers a
    token, a multiple of HEAD; depth: blocks, each attention and an MLP four times as wide."""

    width: int
    depth: int

    @property
    def text(self) -> str:
        """`2 transformer 64, 2 heads`."""
        return f"{self.depth} transformer {self.width}, {self.width // HEAD} heads"

    def sites(self, tokens: int) -> list[Site]:
        """Its linear layers, for so many tokens. Products of tokens with tokens have no widths, and no price."""
        wide = _WIDER * self.width
        pairs = [(self.width, self.width)] * 4 + [(self.width, wide), (wide, self.width)]
        return [Site(num_in=a, num_out=b, size=(tokens, 1), linear=True) for a, b in pairs * self.depth]


def seeing(transformer: Transformer, stem: nn.Module, tokens: int, num_out: int) -> nn.Module:
    """[n, ...] -> [n, num_out]. stem: makes a picture [n, width, H, W] of what comes in, H * W = tokens."""
    return _seeing()(transformer, stem, tokens, num_out)  # type: ignore[no-any-return]


def reading(transformer: Transformer, roles: tuple[str, ...], rows: dict[str, int], positions: int, num_out: tuple[int, ...]) -> Any:
    """Token numbers [n, tokens] -> one output [n, numbers] for each of `num_out`.

    roles: what each input is, in order: `tokens`, `mask` (1 where there is a token) or `types`; rows: of the tables of tokens and types;
    positions: tokens at most.
    """
    return _reading()(transformer, roles, rows, positions, num_out)


@functools.cache
def _attention() -> type[nn.Module]:
    from torch import nn

    class Attention(nn.Module):
        """Normalisation and self-attention of heads of equal width, whose number is nowhere written."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

        def forward(self, x_NTC: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
            num, tokens = x_NTC.shape[0], x_NTC.shape[1]
            x_NTC = self.norm(x_NTC)
            q, k, v = (layer(x_NTC).view(num, tokens, -1, HEAD).transpose(1, 2) for layer in (self.query, self.key, self.value))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=added)
            out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(num, tokens, -1))
            return out

    return Attention


@functools.cache
def _blocks() -> type[nn.Module]:
    from torch import nn

    class Blocks(nn.Module):
        """[n, tokens, width] -> the same, normalised. added: to the scores of attention, [n, 1, 1, tokens]."""

        def __init__(self, transformer: Transformer) -> None:
            super().__init__()
            width, wide = transformer.width, _WIDER * transformer.width
            self.attention = nn.ModuleList(_attention()(width) for _ in range(transformer.depth))
            self.mlp = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(width), nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))
                for _ in range(transformer.depth)
            )
            self.norm = nn.LayerNorm(width)

        def forward(self, x_NTC: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
            for attention, mlp in zip(self.attention, self.mlp, strict=True):
                x_NTC = x_NTC + attention(x_NTC, added)
                x_NTC = x_NTC + mlp(x_NTC)
            out: torch.Tensor = self.norm(x_NTC)
            return out

    return Blocks


@functools.cache
def _seeing() -> Any:
    from torch import nn

    class Seeing(nn.Module):
        """A picture's points as tokens, with learnt positions; the mean of the tokens is what the head sees."""

        def __init__(self, transformer: Transformer, stem: nn.Module, tokens: int, num_out: int) -> None:
            super().__init__()
            self.stem, self.blocks, self.head = stem, _blocks()(transformer), nn.Linear(transformer.width, num_out)
            self.position = _learnt(1, tokens, transformer.width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x_NTC = self.stem(x).flatten(2).transpose(1, 2) + self.position
            out: torch.Tensor = self.head(self.blocks(x_NTC).mean(1))
            return out

    return Seeing


@functools.cache
def _reading() -> Any:
    import torch
    from torch import nn

    class Reading(nn.Module):
        """A table of tokens, one of types where there are any, learnt positions; the mean of what is not masked is what the heads see."""

        def __init__(
            self, transformer: Transformer, roles: tuple[str, ...], rows: dict[str, int], positions: int, num_out: tuple[int, ...]
        ) -> None:
            super().__init__()
            width = transformer.width
            self.roles, self.rows, self.last = roles, rows, dict[str, int]()
            self.tables = nn.ModuleDict({role: nn.Embedding(rows[role], width, _weight=_learnt(rows[role], width)) for role in rows})
            self.position, self.norm, self.blocks = _learnt(1, positions, width), nn.LayerNorm(width), _blocks()(transformer)
            self.heads = nn.ModuleList(nn.Linear(width, numbers) for numbers in num_out)

        def clamp(self, role: str) -> None:
            """Numbers beyond the table are read as its last."""
            self.last[role] = self.rows[role] - 1

        def forward(
            self, first: torch.Tensor, second: torch.Tensor | None = None, third: torch.Tensor | None = None
        ) -> torch.Tensor | tuple[torch.Tensor, ...]:
            given: dict[str, Any] = dict(zip(self.roles, (first, second, third), strict=False))
            x_NTC = torch.narrow(self.position, 1, 0, given["tokens"].shape[1])
            for role, table in self.tables.items():
                numbers = given[role].clamp_max(self.last[role]) if role in self.last else given[role]
                x_NTC = table(numbers) + x_NTC
            x_NTC = self.norm(x_NTC)
            if "mask" in given:
                seen_NT = given["mask"].float()
                x_NTC = self.blocks(x_NTC, ((1 - seen_NT) * _HIDDEN).unsqueeze(1).unsqueeze(1))
                seen_NT1 = seen_NT.unsqueeze(-1)
                mean_NC = (x_NTC * seen_NT1).sum(1) / seen_NT1.sum(1).clamp_min(1)
            else:
                mean_NC = self.blocks(x_NTC).mean(1)
            answers = tuple(head(mean_NC) for head in self.heads)
            return answers if len(answers) > 1 else answers[0]

    return Reading


def _learnt(*shape: int) -> nn.Parameter:
    import torch

    return torch.nn.Parameter(_SPREAD * torch.randn(*shape))
