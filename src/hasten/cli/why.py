"""hasten why."""

from __future__ import annotations

import click

from . import output, shared


@click.command(short_help="Show the plan only, with reasons.")
@shared.request
@shared.as_json
@shared.everywhere
def command(
    source: str, data: str | None, budget: str | None, max_drop: float | None, objective: str | None, threads: int | None,
    settings: tuple[str, ...], json_: bool,
) -> None:  # fmt: skip
    """Show the plan only: each technique and runtime, "ok" or one sentence why not. Nothing is built.

    \b
    hasten why job.toml
    hasten why model.onnx --data data.npz
    """
    from .. import api

    job = shared.read_job(
        source, data=data, budget=budget, max_drop=max_drop, objective=objective, threads=threads, settings=settings
    )  # fmt: skip
    lines = api.why(job)
    if json_:
        output.document({"plan": [{"kind": line.kind, "name": line.name, "verdict": line.verdict} for line in lines]})
    else:
        output.table(("kind", "name", ""), [(line.kind, line.name, line.verdict) for line in lines])
