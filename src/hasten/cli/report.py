"""hasten report."""

from __future__ import annotations

from pathlib import Path

import click

from . import output, shared


@click.command(short_help="Write the report as one HTML file.")
@click.argument("bundle", type=shared.PATH)
@click.option("--out", type=shared.PATH, metavar="FILE.html", help="Where it goes. Default: report.html in the bundle.")
@shared.as_json
@shared.everywhere
def command(bundle: Path, out: Path | None, json_: bool) -> None:
    """Write the report of a bundle: one HTML file that needs no network.

    \b
    hasten report out/digits
    hasten report out/digits --out digits.html
    """
    from .. import api

    path = api.write_report(bundle, out)
    if json_:
        output.document({"report": str(path)})
    else:
        output.say(str(path))
