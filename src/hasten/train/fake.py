"""Fake quantisation: a float model that rounds as its 8-bit program will, and learns to live with it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from .lift import layer_of

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

_LEVELS = 255  # steps between the least and the largest of 8 bits


@functools.cache
def _between() -> Any:
    """Rounds to 256 levels between two ends, in one pass: written out, autograd takes a dozen of them over every activation."""
    import torch

    class Between(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
            step = float(high - low) / _LEVELS
            zero = round(-float(low) / step)
            y = (x / step).round_().clamp_(-zero, _LEVELS - zero).mul_(step)
            ctx.save_for_backward(x, y)
            ctx.ends = -zero * step, (_LEVELS - zero) * step
            return y

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            """Straight through between the ends; to an end what lies beyond it, and the rounding of all that lies between (Esser et al.
            2020, equation 3, by the chain rule from the step to the ends)."""
            (x, y), (least, most) = ctx.saved_tensors, ctx.ends
            below, above = x < least, x > most
            through = gradient * ~(below | above)
            rounding = (through * (y - x)).sum() / (most - least)
            return through, (gradient * below).sum() - rounding, (gradient * above).sum() + rounding

    return Between


@functools.cache
def _classes() -> tuple[type[nn.Module], type[nn.Module]]:
    """Activation and Rounded, made when torch is there."""
    import torch
    from torch import nn

    class Activation(nn.Module):
        """What enters a layer, in unsigned 8 bits between two learnt ends (learnt step size: Esser et al. 2020, arXiv:1902.08153; learnt
        clipping: Choi et al. 2018, arXiv:1805.06085)."""

        low: torch.Tensor
        high: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
            self.watching = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.watching:
                with torch.no_grad():
                    self.low.copy_(torch.minimum(self.low, x.min()))
                    self.high.copy_(torch.maximum(self.high, x.max()))
                return x
            low, high = self.low.clamp(max=0), self.high.clamp(min=1e-6)  # zero must be a number of the grid
            return _between().apply(x, low, high)  # type: ignore[no-any-return]

    class Rounded(nn.Module):
        """A layer whose weight is rounded to signed 8 bits, symmetric, by the largest of each output channel or of all."""

        def __init__(self, layer: nn.Module, per_channel: bool) -> None:
            super().__init__()
            self.layer, self.per_channel, self.watching = layer, per_channel, True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.watching:
                return self.layer(x)  # type: ignore[no-any-return]
            weight: Any = self.layer.weight
            axes = tuple(range(1 if self.per_channel else 0, weight.ndim))
            step = weight.detach().abs().amax(axes, keepdim=True).clamp_min(1e-12) / (_LEVELS // 2)
            return torch.func.functional_call(self.layer, {"weight": _round(weight / step) * step}, (x,))  # type: ignore[no-any-return]

    return Activation, Rounded


def _round(x: torch.Tensor) -> torch.Tensor:
    """Rounded, with the gradient of no rounding (straight through: Bengio et al. 2013, arXiv:1308.3432)."""
    return x + (x.round() - x).detach()


def insert(module: fx.GraphModule, *, per_channel: bool) -> None:
    """Let every convolution and linear layer round its weight and its input, in place: once `start` has ended the watching."""
    from torch import nn

    activation, rounded = _classes()
    made: dict[Any, Any] = {}
    for node in list(module.graph.nodes):
        layer = layer_of(module, node)
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear | rounded):
            continue
        source = node.all_input_nodes[0]
        if source not in made:
            name = f"{node.target}_input"
            module.add_submodule(name, activation())
            with module.graph.inserting_after(source):
                made[source] = module.graph.call_module(name, (source,))
        node.replace_input_with(source, made[source])
        if not isinstance(layer, rounded):
            module.add_submodule(str(node.target), rounded(layer, per_channel))
    module.recompile()


def start(module: nn.Module) -> None:
    """From now on everything rounds, inputs between the ends that were seen so far."""
    for layer in module.modules():
        if isinstance(layer, _classes()):
            layer.watching = False  # type: ignore[assignment]


def remove(module: fx.GraphModule) -> None:
    """Back to a float model, in place: weights as they are, inputs of layers clipped to the ends that were learnt."""
    from torch import nn

    activation, rounded = _classes()
    for name, layer in list(module.named_children()):
        if isinstance(layer, rounded):
            module.add_submodule(name, layer.layer)  # type: ignore[arg-type]
        elif isinstance(layer, activation):
            low, high = min(layer.low.item(), 0.0), max(layer.high.item(), 1e-6)  # type: ignore[operator]
            module.add_submodule(name, nn.Hardtanh(low, high))
    module.recompile()
