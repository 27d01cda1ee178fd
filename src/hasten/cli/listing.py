"""hasten list."""

from __future__ import annotations

from dataclasses import asdict

import click

from .. import catalogue
from . import output, shared


@click.command(short_help="List techniques, runtimes or metrics.")
@click.argument("kind", type=click.Choice(list(catalogue.KINDS)))
@shared.as_json
@shared.everywhere
def command(kind: str, json_: bool) -> None:
    """List what there is: techniques, runtimes or metrics.

    \b
    hasten list techniques
    hasten list runtimes --plugin mine.py
    """
    note, find = catalogue.KINDS[kind]
    entries = find()
    if json_:
        output.document({kind: [asdict(entry) for entry in entries]})
    else:
        output.table(("name", note, "what"), [(entry.name, entry.note, entry.what) for entry in entries])
