"""What decides results beside their arguments: it must be the same on every machine that works for one process."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .digest import digest_json, digest_path
from .errors import HastenError
from .machine import versions
from .registry import add_plugin, find, plugins
from .seams import Runtime, Technique


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Of one process. plugins: files; packages: distributions that count; found: what was there of all that."""

    plugins: tuple[str, ...]
    packages: tuple[str, ...]
    found: Mapping[str, str]


def surroundings(*packages: str) -> Surroundings:
    """Of this process: its Python, its hasten, its plug-ins, and `packages`. None named: those of every technique and runtime.

    Raises JobError where a plug-in is not there.
    """
    files = tuple(str(path) for path in plugins())
    return Surroundings(plugins=files, packages=packages, found=_found(files, packages))


def difference(wanted: Surroundings) -> str | None:
    """How the surroundings of this process differ from the wanted ones, as a rule that is broken; None where they are the same.

    The plug-ins are known here from now on.
    """
    try:
        have = _found(wanted.plugins, wanted.packages)
    except HastenError as error:
        return f"must have the same plug-ins ({error})"
    want = wanted.found
    for name in sorted({*want, *have}):
        if want.get(name) != have.get(name):
            rule = f"must have {name} {want[name]}" if name in want else f"must have no {name}"
            return f"{rule}, as the process that asks has, but has {have.get(name, 'none')}"
    return None


@functools.cache
def _found(files: tuple[str, ...], packages: tuple[str, ...]) -> Mapping[str, str]:
    for plugin in files:
        add_plugin(Path(plugin))
    names = set(packages)
    if not names:
        names |= {name for kind in find(Technique).values() for name in kind.packages}
        names |= {name for kind in find(Runtime).values() for name in kind.packages}
    ours = Path(__file__).resolve().parents[1]  # the package
    sources = {path.relative_to(ours).as_posix(): digest_path(path) for path in ours.rglob("*.py")}
    return {
        "python": platform.python_version(),
        "hasten's source": digest_json(sources),
        **{f"plug-in {plugin}": digest_path(Path(plugin)) for plugin in files},
        **versions("hasten", "numpy", *sorted(names)),
    }
