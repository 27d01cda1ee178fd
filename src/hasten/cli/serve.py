"""hasten serve."""

from __future__ import annotations

from typing import Any

import click

from . import output, shared


@click.command(short_help="Answer HTTP requests with bundles.")
@click.argument("bundle", nargs=-1, required=True, metavar="[NAME=]BUNDLE...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port for gRPC; 0 takes a free one. Default: no gRPC.")
@click.option("--slo", metavar="TIME", help="From request to answer: 50ms. What cannot keep it is refused at once. Default: none.")
@click.option("--max-queue", type=click.IntRange(min=1), metavar="N", help="Requests that may wait for one model. Default: 1024.")
@click.option("--allow-reload", is_flag=True, help="Let requests and SIGHUP load models anew, without losing a request.")
@click.option("--split", multiple=True, metavar="M@1=90,M@2=10", help="Versions of M that share the requests which name none.")
@click.option("--canary", multiple=True, metavar="M@2=5", help="Version 2 gets 5 %, until it is surely worse than the others.")
@click.option("--shadow", multiple=True, metavar="M@2", help="Version 2 gets copies; its outputs are compared and answer nobody.")
@click.option("--memory", metavar="SIZE", help="For all programs together: 2GB. Who was asked least recently makes room. Default: none.")
@click.option("--replicas", default="1", metavar="N", help="Processes for each program; auto: as many as pay. Default: 1, the server's.")
@click.option("--isolate", is_flag=True, help="Run each program outside of the server even where it is one: a crash ends no connection.")
@click.option("--api-keys", metavar="FILE", type=click.Path(), help="Keys and what each may ask (TOML). Default: everybody may.")
@click.option("--tls-cert", metavar="FILE", type=click.Path(), help="Certificate (PEM) to answer https and grpcs with.")
@click.option("--tls-key", metavar="FILE", type=click.Path(), help="The key that goes with it.")
@click.option("--tls-ca", metavar="FILE", type=click.Path(), help="Callers need a certificate that one of these signed (mutual TLS).")
@click.option("--access-log", metavar="FILE", type=click.Path(), help="A line of JSON for each request; - is standard output.")
@click.option("--traces", metavar="URL", help="Send traces there (OTLP over HTTP). Default: to OTEL_EXPORTER_OTLP_ENDPOINT, if it is set.")
@shared.everywhere
def command(bundle: tuple[str, ...], **options: Any) -> None:
    """Answer HTTP requests with bundles, until Ctrl-C. Several of one name are its versions 1, 2, ...

    \b
    hasten serve out/digits --port 8000 --slo 50ms
    hasten serve digits=out/old digits=out/new letters=out/letters
    curl --data-binary @seven.png -H 'content-type: image/png' http://127.0.0.1:8000/v1/predict
    """
    from .. import api

    def announce(address: str) -> None:
        output.say(f"{address}  (Ctrl-C stops it)")

    given = {name: value for name, value in options.items() if value is not None}
    api.serve_bundle(*bundle, options=api.ServeOptions(**given), announce=announce)
