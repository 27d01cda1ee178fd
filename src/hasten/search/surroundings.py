"""What decides the results of steps beside their arguments: it must be the same on every machine that works for a search."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from pathlib import Path

from ..core.digest import digest_json, digest_path
from ..core.errors import HastenError
from ..core.machine import versions
from ..core.registry import add_plugin, find
from ..core.seams import Runtime, Technique


@functools.cache
def surroundings(plugins: tuple[str, ...]) -> Mapping[str, str]:
    """What must be the same on every node: what decides the results of steps. Raises JobError where a plug-in is not there."""
    for plugin in plugins:
        add_plugin(Path(plugin))
    packages = {name for kind in find(Technique).values() for name in kind.packages}
    packages |= {name for kind in find(Runtime).values() for name in kind.packages}
    ours = Path(__file__).resolve().parents[1]  # the package
    sources = {path.relative_to(ours).as_posix(): digest_path(path) for path in ours.rglob("*.py")}
    return {
        "python": platform.python_version(),
        "hasten's source": digest_json(sources),
        **{f"plug-in {plugin}": digest_path(Path(plugin)) for plugin in plugins},
        **versions("hasten", "numpy", *sorted(packages)),
    }


def difference(wanted: Mapping[str, str], plugins: tuple[str, ...]) -> str | None:
    """How the surroundings of this process differ from the wanted ones, as a rule that is broken; None where they are the same."""
    try:
        have = surroundings(plugins)
    except HastenError as error:
        return f"must have the plug-ins of the search ({error})"
    for name in sorted({*wanted, *have}):
        if wanted.get(name) != have.get(name):
            rule = f"must have {name} {wanted[name]}" if name in wanted else f"must have no {name}"
            return f"{rule}, as the search has, but has {have.get(name, 'none')}"
    return None
