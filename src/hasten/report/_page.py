"""How a page is made of a template: jinja2, with drawings as inline SVG in two sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..core.need import need
from . import plots

T = TypeVar("T")


def page(template: str, view: Mapping[str, Any], drawings: Mapping[str, Callable[[T, plots.Size], str]], subject: T) -> str:
    """`template` filled with `view`, and with each of `drawings` of `subject`, wide and narrow. Raises MissingExtra."""
    jinja2 = need("jinja2", why="to write the page")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    svg: Callable[[str], Any] = need("markupsafe").Markup
    drawn = {name: [svg(draw(subject, size)) for size in (plots.WIDE, plots.NARROW)] for name, draw in drawings.items()}
    text: str = environment.get_template(template).render(**view, drawings=drawn)
    return text
