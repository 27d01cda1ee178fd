"""What a model knows before its last layer, as one more output: features that a student can be taught."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ..core.errors import NotPossibleHere

if TYPE_CHECKING:
    from torch import fx, nn


@functools.cache
def _tapped() -> type[nn.Module]:
    import torch
    from torch import nn

    class Tapped(nn.Module):
        """module: a lifted model; projected: to what its features are mapped, by a layer that learns beside it."""

        def __init__(self, module: fx.GraphModule, last: nn.Linear, projection: nn.Module) -> None:
            super().__init__()
            self.module, self.projection, self.width = module, projection, last.in_features
            self._seen: torch.Tensor | None = None
            self.tap = last.register_forward_pre_hook(self._see)  # `tap.remove()` leaves `module` as it was

        def _see(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._seen = inputs[0]

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            from .lift import flat_outputs

            outputs = flat_outputs(self.module(*inputs))
            assert self._seen is not None
            return (*outputs, self.projection(self._seen))

    return Tapped


def tapped(module: fx.GraphModule, *, width: int | None = None, seed: int = 0) -> Any:
    """`module` with what enters its last linear layer as one more output. width: what a learnt layer maps it to, None: as it is.

    Features that pass through a learnt map (Romero et al. 2015, FitNets, arXiv:1412.6550) need not be as many as the teacher's.
    Raises NotPossibleHere where there is no linear layer.
    """
    import torch
    from torch import nn

    layers = [module.get_submodule(str(n.target)) for n in module.graph.nodes if n.op == "call_module"]
    last = next((layer for layer in reversed(layers) if isinstance(layer, nn.Linear)), None)
    if last is None:
        raise NotPossibleHere("features", "must come from before a linear layer, and the model has none", hint="Set features to 0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projection = nn.Identity() if width is None else nn.Linear(last.in_features, width)
    return _tapped()(module, last, projection)
