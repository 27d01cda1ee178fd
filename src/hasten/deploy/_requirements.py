"""What must be installed to serve a bundle, each with its version: those of the certificate where it has them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence

from ..core.errors import MissingExtra


def pinned(roots: Sequence[str], recorded: Mapping[str, str]) -> tuple[str, ...]:
    """`package==version` for `roots` (as `hasten[serve]`) and all that they require, sorted.

    recorded: versions by distribution, which win over those that are installed here. Raises MissingExtra where one is neither.
    """
    from packaging.utils import canonicalize_name

    known = {canonicalize_name(name): version for name, version in recorded.items()}
    found: dict[str, str] = {}
    for name in _closure(roots):
        version = known.get(canonicalize_name(name)) or _installed(name)
        found[str(canonicalize_name(name))] = version
    return tuple(f"{name}=={version}" for name, version in sorted(found.items()))


def _closure(roots: Sequence[str]) -> Iterator[str]:
    from packaging.requirements import Requirement

    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(root) for root in roots]
    while waiting:
        wanted = waiting.pop()
        key = (wanted.name.lower(), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        yield wanted.name
        for text in importlib.metadata.requires(wanted.name) or () if _is_installed(wanted.name) else ():
            inner = Requirement(text)
            # An empty extra stands for none: what the package requires in any case.
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                waiting.append(inner)


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtra(
            f"package {name!r}", "is needed to serve, and its version is not known", hint='Install it: `pip install "hasten[serve]"`'
        ) from None


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
