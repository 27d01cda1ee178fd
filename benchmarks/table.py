"""The table of README and docs/log.md, from the results of main-models: `python benchmarks/table.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "main-models.json"
HEAD = "| model | over start | over lossless | loss, points | verdict | answer | best int8, over lossless | throughput over lossless | MB |"


def main() -> None:
    """Print one row a model."""
    figures: dict[str, Mapping[str, Any]] = json.loads(RESULTS.read_text())["figures"]
    models = list(dict.fromkeys(name.split(".")[0] for name in figures))
    print(HEAD)
    print("|---" * (HEAD.count("|") - 1) + "|")
    for model in models:
        of = {name.split(".", 1)[1]: value for name, value in figures.items() if name.startswith(f"{model}.")}
        if "over_start" in of:
            print("| " + " | ".join([model, *row(of)]) + " |")


def row(of: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The cells of one model."""
    drop, size = of.get("drop_points", {}), of.get("size_bytes", {})
    certified = drop.get("value") is not None and of.get("drop_samples", {}).get("value")
    loss = f"{drop['value']:.2f} (at most {drop['high']:.2f}; n = {of['drop_samples']['value']:,.0f})" if certified else "parity"
    answer = str(of.get("answer", {}).get("value", "")).removeprefix("export-onnx > ")
    return [
        ratio(of.get("over_start")),
        ratio(of.get("over_lossless")),
        loss,
        str(of.get("verdict", {}).get("value", "")),
        f"`{answer}`",
        ratio(of.get("int8.over_lossless")),
        ratio(of.get("throughput_over_lossless")),
        f"{size['value'] / 1e6:.2f}" if size.get("value") else "",
    ]


def ratio(figure: Mapping[str, Any] | None) -> str:
    """`1.31x (1.19 to 1.44)`."""
    if not figure or figure.get("value") is None:
        return ""
    if figure.get("low") in (None, figure["value"]):
        return f"{figure['value']:.2f}x"
    return f"{figure['value']:.2f}x ({figure['low']:.2f} to {figure['high']:.2f})"


if __name__ == "__main__":
    main()
