"""hasten track."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import output, shared

if TYPE_CHECKING:
    from ..tracking.write import Tracked


@click.command(short_help="Write a bundle's search to MLflow.")
@click.argument("bundle", type=shared.PATH)
@click.option("--uri", metavar="DIR|sqlite:///FILE|URL", help="Where. Default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db.")
@click.option("--experiment", default="hasten", show_default=True, metavar="NAME", help="The experiment that the runs belong to.")
@shared.as_json
@shared.everywhere
def command(bundle: Path, uri: str | None, experiment: str, json_: bool) -> None:
    """Write the search of a bundle to MLflow: a run for each candidate, the bundle in the model registry. Once: again changes nothing.

    \b
    hasten track out/digits
    hasten track out/digits --uri http://127.0.0.1:5000 --experiment digits

    `hasten optimize ... --set tracking.uri=sqlite:///mlflow.db` does it at the end of a search.
    """
    from .. import api

    tracked = api.track(bundle, uri=uri, experiment=experiment)
    if json_:
        output.document(asdict(tracked))
    else:
        _tell(tracked)


def _tell(tracked: Tracked) -> None:
    before = "" if tracked.new else " (as before)"
    output.say(f"{tracked.candidates} candidates below run {tracked.run_id} of experiment {tracked.experiment!r} in {tracked.uri}{before}")
    if tracked.model is not None:
        output.say(f"models:/{tracked.model}/{tracked.version} is the bundle")
