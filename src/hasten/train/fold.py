"""Batch normalisation, folded into the layer before it: what a compiler will do with it anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .lift import layer_of

if TYPE_CHECKING:
    from torch import fx


def fold_norms(module: fx.GraphModule) -> int:
    """Fold each batch normalisation that follows a convolution or a linear layer, and nothing else does. Returns how many."""
    from torch import nn
    from torch.nn.utils import fusion

    folded, norms = 0, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    for node in list(module.graph.nodes):
        norm = layer_of(module, node)
        if not isinstance(norm, norms):
            continue
        source = node.all_input_nodes[0]
        layer = layer_of(module, source)
        calls = sum(n.op == "call_module" and n.target == source.target for n in module.graph.nodes)
        if len(source.users) > 1 or calls > 1 or not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            continue
        fuse: Any = fusion.fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fusion.fuse_conv_bn_eval
        module.add_submodule(str(source.target), fuse(layer.eval(), norm.eval()).requires_grad_())  # a new bias would be frozen
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)
        folded += 1
    module.delete_all_unused_submodules()
    module.recompile()
    return folded
