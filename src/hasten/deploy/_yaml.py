"""Plain data as YAML."""

from __future__ import annotations

from typing import Any

from ..core.need import need


def dump(*documents: Any, head: str = "") -> str:
    """Documents of one file, keys in their order. head: comment lines above them. Raises MissingExtra."""
    yaml = need("yaml", why="to write manifests")
    return head + str(yaml.safe_dump_all(documents, sort_keys=False, width=120, allow_unicode=True))
