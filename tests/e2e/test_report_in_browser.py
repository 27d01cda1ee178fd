"""The report in a real browser: complete, self-contained, and inside a phone's width."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import report_fixture as fixture

from hasten.report.html import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: `apt-get install chromium` brings it")

# Headless Chromium has a smallest window of about 500 pixels: a frame gives the page a phone's width.
# The frame shares its parent's origin, so that the parent may measure inside it.
WRAPPER = """<!DOCTYPE html><body>
<iframe id="page" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe><pre id="found"></pre>
<script>
document.getElementById("page").onload = event => {{
  const page = event.target.contentDocument, width = page.documentElement.clientWidth;
  const sticking = [...page.querySelectorAll("body *")].filter(e => !e.closest("thead") && e.getBoundingClientRect().right > width + 1);
  const shown = [...page.querySelectorAll("svg text")].filter(e => e.getClientRects().length && e.getBoundingClientRect().width);
  document.getElementById("found").textContent = JSON.stringify({{
    width: width, scroll: page.documentElement.scrollWidth, sticking: sticking.map(e => e.outerHTML.slice(0, 120)),
    sections: [...page.querySelectorAll("header[id], section[id]")].map(e => e.id),
    hidden: [...page.querySelectorAll("section > h2, h1")].filter(e => e.getBoundingClientRect().height == 0).length,
    drawings: [...page.querySelectorAll("svg")].filter(e => e.getBoundingClientRect().width > 0).length,
    smallest_text: Math.min(...shown.map(e => e.getBoundingClientRect().height)),
    broken: [...page.images].filter(i => !i.naturalWidth).length, pictures: page.images.length,
    resources: page.defaultView.performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:")),
  }});
}};
</script></body>"""


def look(page: str, width: int, folder: Path) -> dict[str, Any]:
    """What the browser found when it laid the page out at `width` pixels."""
    wrapper = folder / "wrapper.html"
    wrapper.write_text(WRAPPER.format(width=width, page=html.escape(page, quote=True)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000",
               "--virtual-time-budget=10000", "--dump-dom", wrapper.as_uri()]  # fmt: skip
    done = subprocess.run([str(CHROMIUM), *options], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the browser measured nothing: {done.stderr[-2000:]}"
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result


@pytest.mark.parametrize("width", [360, 390, 860, 1280])
def test_the_report_fits_the_screen_and_asks_for_nothing(width: int, tmp_path: Path) -> None:
    found = look(render(fixture.manifest(), fixture.evidence()), width, tmp_path)
    assert found["width"] <= width
    assert found["scroll"] <= found["width"]
    assert found["sticking"] == []
    assert found["resources"] == []
    assert (found["pictures"], found["broken"]) == (16, 0)
    assert found["drawings"] == 3
    assert found["smallest_text"] >= 9
    assert len(found["sections"]) == 12
    assert found["hidden"] == 0


def test_the_least_report_fits_a_phone(tmp_path: Path) -> None:
    found = look(render(*fixture.minimal()), 390, tmp_path)
    assert found["scroll"] <= found["width"]
    assert found["sticking"] == []
    assert len(found["sections"]) == 12
