"""A profile as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.units import format_bytes
from . import profile_plots
from ._page import page
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
    return page("profile.html.j2", _view(profile), _DRAWINGS, profile)


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
