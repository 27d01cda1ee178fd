"""hasten bench."""

from __future__ import annotations

from pathlib import Path

import click

from . import output, shared


@click.command(short_help="Time bundles and ONNX files, in turn.")
@click.argument("subjects", type=shared.PATH, nargs=-1, required=True, metavar="BUNDLE|MODEL.onnx...")
@click.option(
    "--against", type=shared.PATH, multiple=True, metavar="BUNDLE|MODEL.onnx", help="Another one. Repeatable; more arguments do the same."
)
@click.option("--data", metavar="PATH|FILE.py:FUNCTION", help="Real inputs. Default: the golden inputs of the first bundle.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True, help="About how long to time.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads that may be used. Default: all cores.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Samples in each call.")
@shared.as_json
@shared.everywhere
def command(
    subjects: tuple[Path, ...],
    against: tuple[Path, ...],
    data: str | None,
    seconds: float,
    threads: int | None,
    batch_size: int,
    json_: bool,
) -> None:
    """Time bundles and ONNX files against each other: in turn, each in its own process.

    \b
    hasten bench out/digits
    hasten bench out/digits --against model.onnx
    hasten bench out/digits out/other model.onnx --threads 1

    Ratios say how many times faster each is than the first one, with their 95 % intervals.
    """
    from .. import api
    from ..report.tables import bench_table
    from .live import watch

    with watch(quiet=json_) as observer:
        result = api.bench([*subjects, *against], data=data, seconds=seconds, threads=threads, batch_size=batch_size, observer=observer)
    if json_:
        output.document(result)
    else:
        output.show(bench_table(result["rows"]))
        output.say(*result["sentences"])
