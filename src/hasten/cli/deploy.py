"""hasten deploy."""

from __future__ import annotations

from pathlib import Path

import click

from . import output, shared


@click.command(short_help="Write what other machines need to serve a bundle.")
@click.argument("bundle", type=shared.PATH)
@click.option("--to", "to", required=True, metavar="PLATFORM", help="docker, compose, kubernetes, kserve, ray-serve, or a plug-in's.")
@click.option("--output", "output_", type=shared.PATH, metavar="DIR", help="Where the files go. Default: deploy/ and the platform.")
@click.option("--slo", metavar="TIME", help="The server's objective, as of `hasten serve`. Default: none.")
@click.option("--image", metavar="NAME:TAG", help="What the image is called. Default: the model's name and the bundle's digest.")
@click.option("--replicas", default="2-8", show_default=True, metavar="N|LOW-HIGH", help="Servers, or the least and most of them.")
@click.option("--startup", metavar="TIME", help="How long a start takes. Default: measured here, by starting it three times.")
@click.option("--memory", metavar="SIZE", help="Memory of one server. Default: measured here, with room for requests.")
@shared.as_json
@shared.everywhere
def command(
    bundle: Path, to: str, output_: Path | None, slo: str | None, image: str | None, replicas: str, startup: str | None, memory: str | None,
    json_: bool,
) -> None:  # fmt: skip
    """Write what other machines need to serve a bundle: files with pinned versions and with numbers that were measured here.

    \b
    hasten deploy out/digits --to docker
    hasten deploy out/digits --to kubernetes --slo 50ms --image registry.example/digits:1 --output deploy/digits

    Nothing is built or sent: the commands for that are shown.
    """
    from .. import api

    document = api.deploy_bundle(
        bundle, to, out=output_ or Path("deploy") / to, slo=slo, image=image, replicas=replicas, startup=startup, memory=memory
    )
    if json_:
        output.document(document)
        return
    output.say(*document["reasons"], "", f"wrote {', '.join(document['files'])}")
    output.say(f"next, in {document['folder']}:", *(f"  {step}" for step in document["steps"]))
