"""hasten optimize."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import output, shared

if TYPE_CHECKING:
    from ..search.front import Front


@click.command(short_help="Make a model fast here, and prove it right.")
@shared.request
@click.option("--out", type=shared.PATH, metavar="DIR", help="Where the bundle goes. Default: out/ and the model's name.")
@click.option("--store", "store_", type=shared.PATH, metavar="DIR", help="Where finished steps are kept. Default: the user's cache.")
@click.option("--train-budget", metavar="TIME", help="Time for techniques that train, beside --budget. Needs data.train. Default: none.")
@shared.workers("Build and time")
@click.option("--quiet", is_flag=True, help="Only the result.")
@shared.as_json
@shared.everywhere
def command(
    source: str, data: str | None, budget: str | None, max_drop: float | None, objective: str | None, threads: int | None,
    settings: tuple[str, ...], out: Path | None, store_: Path | None, train_budget: str | None, workers: str | None,
    quiet: bool, json_: bool,
) -> int:  # fmt: skip
    """Make a model fast here, and prove that it stayed right.

    Finished steps are kept: after a stop the same command goes on from there.

    \b
    hasten optimize job.toml --budget 5m
    hasten optimize model.onnx --data data.npz --max-drop 0.5
    hasten optimize job.toml --train-budget 1h
    hasten optimize job.toml --workers ray://head:10001 --set target.label=edge-box
    hasten optimize net.py:build --data pictures/ --set model.weights=net.safetensors --set data.preprocess.resize=96

    Exits with 0 for a certified answer, or when the fastest lossless program is the answer; with 5 when nothing keeps the limits.
    """
    from .. import api
    from ..core.store import Store
    from .live import watch

    job = shared.read_job(
        source, data=data, budget=budget, max_drop=max_drop, objective=objective, threads=threads, settings=settings, workers=workers,
        train_budget=train_budget,
    )  # fmt: skip
    store = Store(store_) if store_ else None
    folder = out or Path("out") / shared.model_name(source)
    with watch(quiet=quiet) as observer:
        front = api.optimize(
            job, out=folder, store=store, observer=observer, command=shlex.join(["hasten", *click.get_current_context().obj.args])
        )
    if json_:
        output.document(front.document)
    else:
        _tell(front)
    return 5 if front.document["verdict"] == "failed" else 0


def _tell(front: Front) -> None:
    from ..bundle.read import Bundle
    from ..report.tables import answer_panel

    bundle = None if front.answer is None else front.answer.bundle
    output.show(answer_panel(front.document, Bundle.open(bundle).evidence if bundle else ()))
    if bundle:
        where = shlex.quote(str(bundle))
        output.say(f"next: hasten verify {where}, hasten serve {where}")
    if run := front.document.get("tracking", {}).get("run_id"):
        output.say(f"tracked: run {run} in {front.document['tracking']['uri']}")
