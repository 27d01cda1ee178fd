"""Every node of an ONNX graph gets a name of its own: times, costs and precision are told node by node."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..core.errors import ModelError
from ..core.need import need
from .worker import State


def name_nodes(model: Any) -> bool:
    """Names nodes that have no name, or that of an earlier one, after their operator. Returns whether there were any."""
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    changed = False
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            name = f"{node.op_type}_{number}"
            while name in taken:
                name += "_"
            node.name, changed = name, True
            taken.add(name)
        seen.add(node.name)
    return changed


def named_copy(state: State, source: Path, folder: Path) -> Path:
    """The path of the ONNX file `source`, or of a copy of it in `folder` whose nodes all have names. Raises ModelError, MissingExtra."""
    onnx = need("onnx", why="to tell the nodes of a graph apart")
    try:
        model = onnx.load(str(source), load_external_data=False)
    except need("google.protobuf.message").DecodeError as error:
        raise ModelError(f"model {source.name}", f"must be an ONNX file ({error})") from None
    if not name_nodes(model):
        return source
    path = folder / source.name
    for beside in source.parent.glob(f"{source.name}?*"):  # weights that lie outside the file
        shutil.copyfile(beside, folder / beside.name)
    path.write_bytes(model.SerializeToString())
    return path
