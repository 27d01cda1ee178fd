"""Who may import whom, that there is no cycle, and that nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hasten.core.need import EXTRA_OF

ROOT = Path(__file__).resolve().parents[2] / "src" / "hasten"

TOOLKITS = {"measure", "bundle", "train"}
LEAVES = {"workloads", "techniques", "runtimes", "doctor"}
PLUGGED = {*LEAVES, "deploy"}
MAY_IMPORT = {
    "_version": set(),
    "core": {"_version"},
    **{toolkit: {"core", "_version"} for toolkit in TOOLKITS},
    "train": {"core", "client", "_version"},  # a teacher may be behind a server
    **{leaf: {"core", *TOOLKITS} for leaf in LEAVES},  # never each other: leaves are found through the registry
    "search": {"core", *TOOLKITS},
    "serve": {"core", "bundle", "_version"},
    "client": {"core"},
    "report": {"core", "bundle", "_version"},
    "deploy": {"core", "bundle"},
    "batch": {"core", "bundle"},
    "tracking": {"core", *TOOLKITS},
    "testing": {"core", *TOOLKITS},
    "engine": {"core", *TOOLKITS, "search", "report", "_version"},
    "compare": {"core", *TOOLKITS, "search"},
    "profiling": {"core", *TOOLKITS, "search", "compare"},
    "api": {"core", *TOOLKITS, "search", "engine", "compare", "profiling", "serve", "report", "tracking", "deploy", "batch"},
    "catalogue": {"core", "measure"},
    "cli": {"core", "bundle", "batch", "search", "report", "tracking", "api", "catalogue", "_version"},
    "__main__": {"cli"},
    "__init__": {"core", *TOOLKITS, "search", "api", "_version"},
}
CORE_MAY_USE = {"numpy", "pydantic", "PIL"}
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "sklearn",
    "scipy",
    "starlette",
    "uvicorn",
    "httpx2",
    "matplotlib",
    "PIL",
    "pyarrow",
    "rich",
    "mlflow",
    "sqlalchemy",
    "yaml",
}


@dataclass(frozen=True)
class Import:
    """One import. source, target: dotted modules below hasten (`core.errors`), or for others the target's full name."""

    source: str
    target: str
    ours: bool
    at_top: bool
    typing_only: bool


def _modules() -> dict[str, Path]:
    names = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return names


MODULES = _modules()


def _resolve(source: str, path: Path, node: ast.ImportFrom) -> str:
    """The absolute dotted name that `from X import ...` in `source` means."""
    if not node.level:
        return node.module or ""
    package = ["hasten", *([] if source in ("__init__", "__main__") else source.split("."))]
    if path.name != "__init__.py" and source != "__main__":
        package = package[:-1]
    base = package[: len(package) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


def _imports_of(source: str) -> Iterator[Import]:
    path = MODULES[source]
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    inside = {id(c) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for c in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _resolve(source, path, node)
            targets = [f"{base}.{a.name}" if _is_module(f"{base}.{a.name}") else base for a in node.names]
        else:
            continue
        for target in set(targets):
            ours = target == "hasten" or target.startswith("hasten.")
            name = target.removeprefix("hasten").removeprefix(".") or "__init__" if ours else target
            yield Import(source, name, ours, id(node) not in inside, id(node) in typing_only)


def _is_module(dotted: str) -> bool:
    return dotted.removeprefix("hasten.") in MODULES if dotted.startswith("hasten.") else False


IMPORTS = [found for source in MODULES for found in _imports_of(source)]


def _room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_a_rule() -> None:
    assert {_room(m) for m in MODULES} <= set(MAY_IMPORT)


def test_rooms_import_only_what_they_may() -> None:
    broken = [
        f"{i.source} imports {i.target}"
        for i in IMPORTS
        if i.ours and _room(i.source) != _room(i.target) and _room(i.target) not in MAY_IMPORT[_room(i.source)]
    ]
    assert broken == []


def test_leaves_do_not_import_their_neighbours() -> None:
    """A leaf may share a private helper (`_name.py`) of its own folder, and nothing else of it."""
    broken = [
        f"{i.source} imports {i.target}"
        for i in IMPORTS
        if i.ours and _room(i.source) in PLUGGED and _room(i.target) == _room(i.source) and not i.target.split(".")[-1].startswith("_")
    ]
    assert broken == []


def test_nothing_imports_the_package_root_from_inside() -> None:
    assert [i.source for i in IMPORTS if i.ours and i.target == "__init__"] == []


def test_core_stands_on_the_standard_library_numpy_and_pydantic() -> None:
    foreign = {(i.source, i.target) for i in IMPORTS if _room(i.source) == "core" and not i.ours}
    allowed = CORE_MAY_USE | set(sys.stdlib_module_names) | {"__future__"}
    assert {f for f in foreign if f[1].split(".")[0] not in allowed} == set()


def test_there_is_no_import_cycle() -> None:
    """Imports inside functions count; imports for type checkers do not, since they never happen."""
    edges = {m: {i.target for i in IMPORTS if i.source == m and i.ours and not i.typing_only} for m in MODULES}
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for target in sorted(edges.get(module, ())):
            walk(target, (*trail, module))
        done.add(module)

    for module in MODULES:
        walk(module, ())


def test_optional_packages_are_imported_inside_functions_only() -> None:
    early = [
        f"{i.source} imports {i.target} at its top"
        for i in IMPORTS
        if not i.ours and i.at_top and not i.typing_only and i.target.split(".")[0] in EXTRA_OF
    ]
    assert early == []


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "code", ["import hasten; dir(hasten)", "import hasten.cli", "import hasten.api, hasten.core.job", "import hasten.client"]
)
def test_importing_the_doors_loads_nothing_heavy(code: str) -> None:
    result = _python(f"import sys; {code}; print(*sorted(m for m in sys.modules if '.' not in m))")
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) & HEAVY == set()


def test_every_module_imports_where_no_extra_is_installed() -> None:
    blocked = sorted(EXTRA_OF)
    modules = sorted(f"hasten.{m}" for m in MODULES if m not in ("__init__", "__main__"))
    code = f"""
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    importlib.import_module(name)
"""
    result = _python(code)
    assert result.returncode == 0, result.stderr[-2000:]
