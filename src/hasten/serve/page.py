"""The page at `/`: try the model, and see how it does. One file, no build step; it asks nobody but this server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from ..bundle.read import Bundle
from ..core.signature import TensorSpec

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "img-src blob: data:; media-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "permissions-policy": "camera=(self)",
}
"""That it asks nobody else is not only a promise: the browser holds it to that."""

_PICTURES = """\
 <label>A picture: <input type="file" accept="image/*" id="file"></label>
 <button type="button" id="camera">Camera</button> <button type="button" id="shoot" hidden>Take this picture</button>
 <video id="video" autoplay playsinline muted hidden></video><img id="shown" alt="what was sent" hidden>"""
_NUMBERS = """\
 <label for="row" id="rowlabel"></label><textarea id="row" rows="4" spellcheck="false"></textarea>"""
_MOST_NUMBERS = 2000  # of an example: more is no help in a text field


def page(name: str, bundle: Bundle, names: Sequence[str]) -> str:
    """The HTML of the model `name`. names: all that are served."""
    signature, pictures = bundle.signature, bundle.manifest.preprocess is not None
    fields = {
        "NAME": escape(name),
        "PATH": quote(name),
        "OTHERS": _others(name, names),
        "ABOUT": escape(str(bundle.answer.get("reason") or f"Served by {bundle.manifest.runtime.name}.")),
        "ROWS": "".join(_row("input", spec) for spec in signature.inputs) + "".join(_row("output", spec) for spec in signature.outputs),
        "FORM": _PICTURES if pictures else _NUMBERS,
        "EXAMPLE": escape(_command(bundle, pictures)),
        "DATA": json.dumps({"name": name, "pictures": pictures, **_to_type(bundle)}).replace("<", "\\u003c"),  # or it could end its element
    }
    first, *parts = _template().split("%%")
    assert len(parts) % 2 == 0, "each %% has a partner"
    return first + "".join(fields[key] + text for key, text in zip(parts[::2], parts[1::2], strict=True))


@cache
def _template() -> str:
    return files(__package__).joinpath("page.html").read_text(encoding="utf8")


def _others(name: str, names: Sequence[str]) -> str:
    links = [f'<a href="/?model={quote(other)}">{escape(other)}</a>' for other in names if other != name]
    return f"<p>Also served: {' · '.join(links)}</p>\n" if links else ""


def _row(side: str, spec: TensorSpec) -> str:
    return f"<tr><td>{side}</td><td>{escape(spec.name)}</td><td>{escape(spec.dtype)}</td><td>{escape(spec.shape_text)}</td></tr>"


def _to_type(bundle: Bundle) -> dict[str, Any]:
    """What the text field starts with, a certified sample. row: how many numbers are its one input's, or 0 where it takes JSON."""
    inputs = bundle.signature.inputs
    golden = bundle.golden.tensors
    sample = {spec.name: golden[spec.name][:1] for spec in inputs}
    if len(inputs) == 1 and len(inputs[0].shape) == 2 and inputs[0].shape[1]:
        (array,) = sample.values()
        numbers = ", ".join(f"{value:.6g}" for value in array[0].tolist()) if array.size <= _MOST_NUMBERS else ""
        return {"row": inputs[0].shape[1], "input": inputs[0].name, "example": numbers}
    small = sum(array.size for array in sample.values()) <= _MOST_NUMBERS
    example = {name: array.tolist() if small else [] for name, array in sample.items()}
    return {"row": 0, "input": "", "example": json.dumps({"inputs": example})}


def _command(bundle: Bundle, pictures: bool) -> str:
    if pictures:
        return "curl --data-binary @picture.jpg -H 'content-type: image/jpeg' http://HOST:PORT/v1/predict"
    names = json.dumps({"inputs": {spec.name: "[...]" for spec in bundle.signature.inputs}}).replace('"[...]"', "[...]")
    return f"curl --json '{names}' http://HOST:PORT/v1/predict"
