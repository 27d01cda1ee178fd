"""Writes out/docs/reference.md: every technique, runtime, metric and key of the job, from the classes themselves.

make docs
"""

from __future__ import annotations

from pathlib import Path

from hasten import catalogue

PAGE = Path(__file__).parents[1] / "out" / "docs" / "reference.md"


def reference() -> str:
    """The page as Markdown."""
    lines = ["# Reference", "", "Written by `make docs` from the code; the same as `hasten show NAME` prints.", ""]
    names = {"Job": ["job"], **{kind.capitalize(): [e.name for e in find()] for kind, (_, find) in catalogue.KINDS.items()}}
    for title, members in names.items():
        lines += [f"## {title}", ""]
        for name in members:
            lines += page(catalogue.page(name))
    return "\n".join(lines).rstrip() + "\n"


def page(of: catalogue.Page) -> list[str]:
    """One page of the catalogue as a section."""
    lines = [f"### {of.title}", "", of.text, ""]
    for section in of.sections:
        lines += [f"**{cell(section.title)}**", "", "| key | type | default | what |", "|---|---|---|---|"]
        lines += [f"| `{o.key}` | {cell(o.type)} | {cell(o.default)} | {cell(o.what)} |" for o in section.options]
        lines.append("")
    return lines


def cell(text: str) -> str:
    """Text that a table's cell can hold."""
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(reference(), encoding="utf8")
    print(PAGE)
