"""A profile as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.need import need
from ..core.units import format_bytes
from . import plots, profile_plots
from .profile_story import dearest, kinds, summary

_SHOWN = 40  # operators of each runtime
_DRAWINGS = {
    "roofline": profile_plots.roofline,
    "batches": profile_plots.batches,
    "calls": profile_plots.call_times,
    "threads": profile_plots.threads,
    "memory": profile_plots.memory,
}


def render_profile(profile: Mapping[str, Any]) -> str:
    """The page of `hasten profile`, from its document. Raises MissingExtra without jinja2 or matplotlib."""
    jinja2 = need("jinja2", why="to write the profile")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    svg: Callable[[str], Any] = need("markupsafe").Markup
    drawings = {name: [svg(draw(profile, size)) for size in (plots.WIDE, plots.NARROW)] for name, draw in _DRAWINGS.items()}
    text: str = environment.get_template("profile.html.j2").render(**_view(profile), drawings=drawings)
    return text


def _view(profile: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": profile["name"],
        "sentence": profile["sentence"],
        "setting": f"{profile['threads']} threads, {profile['batch_size']} samples a call",
        "runtimes": [
            {
                "summary": summary(r),
                "sentence": r["sentence"],
                "kinds": kinds(r["operators"]),
                "operators": dearest(r["operators"], _SHOWN),
                "num_operators": len(r["operators"]),
            }
            for r in profile["runtimes"]
        ],
        "problems": sorted(profile["problems"].items()),
        "facts": [("Machine", profile["machine"]["text"]), *_ceilings(profile["ceilings"])],
        "sentences": profile["sentences"],
    }


def _ceilings(ceilings: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("Memory", f"{format_bytes(ceilings['bytes_per_second'])} a second"),
        ("float32", f"{ceilings['float32_per_second'] / 1e9:.0f} billion operations a second"),
    ]
    if ceilings["int8_per_second"]:
        rows.append(("int8", f"{ceilings['int8_per_second'] / 1e9:.0f} billion operations a second"))
    for runtime, ratios in ceilings["int8_ratio"].items():
        rows.append((f"int8 on {runtime}", ", ".join(f"{kind} {1 / ratio:.2g}x" for kind, ratio in ratios.items())))
    return rows
