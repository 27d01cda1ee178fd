"""The page at `/`: what is served, how to ask, and a form to try a picture. No network, no framework."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from ..bundle.read import Bundle
from ..core.signature import TensorSpec

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} · hasten</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; color: #1c2024; background: #fff }}
 table {{ border-collapse: collapse }} td, th {{ padding: .2rem .8rem .2rem 0; text-align: left }}
 pre {{ background: #f2f4f6; padding: .8rem; border-radius: .4rem; overflow-x: auto }}
 @media (prefers-color-scheme: dark) {{ body {{ color: #e6e8ea; background: #15181b }} pre {{ background: #22272c }} }}
</style></head><body>
<h1>{name}</h1>
{others}<p>{about}</p>
<table><tr><th></th><th>name</th><th>type</th><th>shape</th></tr>{rows}</table>
{form}
<h2>From a program</h2>
<pre>{example}</pre>
<p>Open Inference Protocol: <a href="/v2/models/{path}">/v2/models/{path}</a>, health: <a href="/v2/health/ready">/v2/health/ready</a></p>
</body></html>
"""

_FORM = """<h2>Try a picture</h2>
<form id="try" data-model="{path}"><input type="file" accept="image/*" name="picture" required> <button>Predict</button></form>
<pre id="answer" hidden></pre>
<script>
document.getElementById("try").addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = event.target.picture.files[0], shown = document.getElementById("answer");
  shown.hidden = false; shown.textContent = "...";
  try {
    const reply = await fetch("/v1/predict?model=" + event.target.dataset.model, {method: "POST", body: file, headers:
    {"content-type": "application/octet-stream"}});
    shown.textContent = JSON.stringify(await reply.json(), null, 1);
  } catch (error) { shown.textContent = String(error); }
});
</script>"""


def page(name: str, bundle: Bundle, names: Sequence[str]) -> str:
    """The HTML of the model `name`. names: all that are served."""
    signature, pictures = bundle.signature, bundle.manifest.preprocess is not None
    rows = "".join(_row("input", spec) for spec in signature.inputs) + "".join(_row("output", spec) for spec in signature.outputs)
    return _TEMPLATE.format(
        name=escape(name),
        path=quote(name),
        others=_others(name, names),
        about=escape(str(bundle.answer.get("reason") or f"Served by {bundle.manifest.runtime.name}.")),
        rows=rows,
        form=_FORM.replace("{path}", quote(name)) if pictures else "",
        example=escape(_example(bundle, pictures)),
    )


def _others(name: str, names: Sequence[str]) -> str:
    links = [f'<a href="/?model={quote(other)}">{escape(other)}</a>' for other in names if other != name]
    return f"<p>Also served: {' · '.join(links)}</p>\n" if links else ""


def _row(side: str, spec: TensorSpec) -> str:
    return f"<tr><td>{side}</td><td>{escape(spec.name)}</td><td>{escape(spec.dtype)}</td><td>{escape(spec.shape_text)}</td></tr>"


def _example(bundle: Bundle, pictures: bool) -> str:
    if pictures:
        return "curl --data-binary @picture.jpg -H 'content-type: image/jpeg' http://HOST:PORT/v1/predict"
    names = json.dumps({"inputs": {spec.name: "[...]" for spec in bundle.signature.inputs}}).replace('"[...]"', "[...]")
    return f"curl --json '{names}' http://HOST:PORT/v1/predict"
