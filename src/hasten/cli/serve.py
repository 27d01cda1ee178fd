"""hasten serve."""

from __future__ import annotations

from pathlib import Path

import click

from . import output, shared


@click.command(short_help="Answer HTTP requests with a bundle.")
@click.argument("bundle", type=shared.PATH)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on; 0 takes a free one.")
@shared.everywhere
def command(bundle: Path, host: str, port: int) -> None:
    """Answer HTTP requests with a bundle, until Ctrl-C.

    \b
    hasten serve out/digits --port 8000
    curl --data-binary @seven.png -H 'content-type: image/png' http://127.0.0.1:8000/v1/predict
    """
    from .. import api

    api.serve_bundle(bundle, host=host, port=port, announce=lambda url: output.say(f"{url}  (Ctrl-C stops it)"))
