"""Finds techniques, runtimes, loaders, checks and platforms: by scanning our folders, entry points, and `--plugin file.py`.

Names exist only here and at the edge. A leaf is imported when it is asked for, and a leaf that is not asked for is not.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from .digest import digest_bytes
from .errors import JobError
from .seams import Check, Loader, Platform, Reader, Runtime, Technique

T = TypeVar("T", Technique, Runtime, Loader, Reader, Check, Platform)

_FOLDERS: dict[type, str] = {
    Technique: "techniques", Runtime: "runtimes", Loader: "workloads", Reader: "workloads", Check: "doctor", Platform: "deploy",
}  # fmt: skip
_PLUGINS = "HASTEN_PLUGINS"  # child processes inherit it, so that they know the same plug-ins


def find(seam: type[T]) -> dict[str, type[T]]:
    """Every registered class of `seam` by name, sorted."""
    modules = [*_builtin(_FOLDERS[seam]), *_entry_points(_FOLDERS[seam]), *_plugin_modules()]
    found: dict[str, type[T]] = {}
    for module in modules:
        for kind in _classes(module, seam):
            if (other := found.get(kind.name)) is not None and other is not kind:
                raise JobError(f"plug-in {kind.__module__}", f"must not take the name {kind.name!r}, which {other.__module__} has")
            found[kind.name] = kind
    return dict(sorted(found.items()))


def get(seam: type[T], name: str, *, field: str = "name") -> type[T]:
    """The class called `name`. Raises JobError, with the nearest name."""
    known = find(seam)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        way = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}"
        raise JobError(field, f"must name one of the {_FOLDERS[seam]}", got=name, hint=way)
    return known[name]


def add_plugin(path: Path) -> None:
    """Make the classes of a file known, here and in child processes. Raises JobError."""
    path = path.resolve()
    if not path.is_file():
        raise JobError("--plugin", "must be a Python file", got=str(path))
    known = [p for p in os.environ.get(_PLUGINS, "").split(os.pathsep) if p]
    _load_file(path)
    if str(path) not in known:
        os.environ[_PLUGINS] = os.pathsep.join([*known, str(path)])


def plugins() -> list[Path]:
    """The files that were added."""
    return [Path(p) for p in os.environ.get(_PLUGINS, "").split(os.pathsep) if p]


def load_plugins() -> None:
    """Import the plug-ins that the parent process knows, so that what is pickled there can be unpickled here. Raises JobError."""
    _plugin_modules()


def _builtin(folder: str) -> list[ModuleType]:
    package = importlib.import_module(f"hasten.{folder}")
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    return [importlib.import_module(f"hasten.{folder}.{name}") for name in names]


def _entry_points(folder: str) -> list[ModuleType]:
    group = {"doctor": "checks"}.get(folder, folder)
    modules = []
    for point in importlib.metadata.entry_points(group=f"hasten.{group}"):
        loaded = point.load()
        modules.append(loaded if isinstance(loaded, ModuleType) else sys.modules[loaded.__module__])
    return modules


def _plugin_modules() -> list[ModuleType]:
    return [_load_file(path) for path in plugins()]


def _load_file(path: Path) -> ModuleType:
    name = f"hasten_plugin_{digest_bytes(str(path).encode())[:10]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise JobError(f"--plugin {path.name}", f"must import, but raised {type(error).__name__}: {error}") from error
    return module


def _classes(module: ModuleType, seam: type[T]) -> list[type[T]]:
    return [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, seam) and kind.__module__ == module.__name__ and not inspect.isabstract(kind)
    ]
