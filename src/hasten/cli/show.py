"""hasten show."""

from __future__ import annotations

from dataclasses import asdict

import click

from .. import catalogue
from . import output, shared


@click.command(short_help="Explain one of them, or the job file.")
@click.argument("name")
@shared.as_json
@shared.everywhere
def command(name: str, json_: bool) -> None:
    """Explain a technique, a runtime or a metric with its options, or every key of a `job`.

    \b
    hasten show job
    hasten show static-int8
    """
    page = catalogue.page(name)
    if json_:
        output.document(asdict(page))
        return
    output.say(page.title, "", *page.text.splitlines())
    for section in page.sections:
        output.say("", section.title)
        output.table(("key", "type", "default", "what"), [(o.key, o.type, o.default, o.what) for o in section.options])
