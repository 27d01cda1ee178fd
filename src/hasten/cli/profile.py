"""hasten profile."""

from __future__ import annotations

from pathlib import Path

import click

from . import output, shared


@click.command(short_help="Where the time goes, and what bounds it.")
@click.argument("source", type=shared.PATH, metavar="JOB.toml|MODEL.onnx|BUNDLE")
@click.option(
    "--data", metavar="PATH|FILE.py:FUNCTION", help="Real inputs for a model or a bundle. Default: the bundle's golden inputs, or random."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads that may be used. Default: all cores.")
@click.option("--out", type=shared.PATH, metavar="DIR", help="Where the files go. Default: out/NAME-profile.")
@shared.as_json
@shared.everywhere
def command(source: Path, data: str | None, threads: int | None, out: Path | None, json_: bool) -> None:
    """Where the time and the memory of a model go on each runtime, how it scales, and what bounds it.

    \b
    hasten profile model.onnx
    hasten profile job.toml --threads 1
    hasten profile out/digits --out profile

    Writes profile.html (one page), trace.json (for chrome://tracing or Perfetto) and profile.json. Reach is the least time that
    this machine's measured limits allow an operator, over the time that it took.
    """
    from .. import api
    from ..report.tables import operators_table, profile_table
    from .live import watch

    folder = out or Path("out") / f"{shared.model_name(str(source))}-profile"
    with watch(quiet=json_) as observer:
        result = api.profile_model(source, data=data, threads=threads, out=folder, observer=observer)
    if json_:
        output.document(result)
        return
    output.show(profile_table(result["runtimes"]))
    for runtime in result["runtimes"]:
        output.say("", f"{runtime['name']}: {runtime['sentence']}")
        output.show(operators_table(runtime))
    output.say("", *(f"Not profiled: {name}: {reason}" for name, reason in result["problems"].items()))
    output.say(*result["sentences"], *(f"{kind}: {path}" for kind, path in result["files"].items()))
