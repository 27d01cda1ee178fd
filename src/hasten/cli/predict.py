"""hasten predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import output, shared

if TYPE_CHECKING:
    from ..batch.parts import Format


@click.command(short_help="Run a bundle on pictures or tensors.")
@click.argument("bundle", type=shared.PATH)
@click.argument("inputs", type=shared.PATH, nargs=-1, required=True, metavar="INPUT...")
@click.option("--many", is_flag=True, help="INPUT is a folder (or a file) of inputs, and a second one the folder for the results.")
@click.option("--format", "form", type=click.Choice(("npz", "jsonl")), default="npz", show_default=True, help="Of the results of --many.")
@shared.workers("With --many: answer")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Classes to show for each input.")
@shared.as_json
@shared.everywhere
def command(bundle: Path, inputs: tuple[Path, ...], many: bool, form: Format, workers: str | None, top: int, json_: bool) -> None:
    """Run a bundle on pictures, or on tensors in one .npz or .npy file, or with --many on whole folders.

    \b
    hasten predict out/digits seven.png four.png
    hasten predict out/text tensors.npz --json
    hasten predict out/digits --many pictures/ results/
    hasten predict out/digits --many pictures/ results/ --workers ray://head:10001

    --many takes pictures, .npz, .npy, .csv and .parquet. Each row is answered exactly once: after a stop or a kill the same command
    goes on. A row that cannot be read has its error beside it. results/manifest.json is there when all is done.
    """
    if many:
        _many(bundle, inputs, form, workers, json_)
        return
    if workers is not None:
        raise click.UsageError("--workers needs --many.", click.get_current_context())
    from ..bundle.read import Bundle
    from ..core.errors import BundleError

    with Bundle.open(bundle) as opened:
        names, values = _read(inputs)
        outputs = opened.predict(values)
        guesses = opened.guesses(outputs, top=top) if opened.manifest.classifier else None
    if names is None:
        count = len(next(iter(outputs.values())))
        names = [f"sample {number}" for number in range(count)]
    if json_:
        output.document(_document(names, outputs, guesses))
    elif guesses is not None:
        output.table(
            ("input", "class", "probability"),
            [(name, guess.label, f"{guess.score:.3f}") for name, best in zip(names, guesses, strict=True) for guess in best],
        )
    elif all(array.ndim >= 1 for array in outputs.values()):
        output.table(("output", "shape", "values"), [(name, str(a.shape), _short(a)) for name, a in outputs.items()])
    else:
        raise BundleError("bundle", "must give outputs with a batch axis")


def _many(bundle: Path, inputs: tuple[Path, ...], form: Format, workers: str | None, json_: bool) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .. import api

    if len(inputs) != 2:
        raise click.UsageError("--many takes two places: INPUT and where the results go.", click.get_current_context())
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        document = api.predict_many(
            bundle, *inputs, form=form, workers=workers,
            tell=lambda at: bar.update(task, completed=at.done, total=at.units, description=f"{at.rows} rows"),
        )  # fmt: skip
    if json_:
        output.document(document)
    else:
        output.say(f"{document['rows']} rows in {len(document['parts'])} parts: {inputs[1]}")
        if document["failed"]:
            output.say(f"{document['failed']} of them could not be answered: their column `error` says why")


def _read(paths: tuple[Path, ...]) -> tuple[list[str] | None, Any]:
    """What the files hold, and their names where each is one sample. Raises DataError."""
    import numpy as np

    from ..core.errors import DataError

    arrays = [path for path in paths if path.suffix in (".npy", ".npz")]
    if arrays and len(paths) > 1:
        raise DataError("input", "must be pictures, or one .npz or .npy file", got=", ".join(map(str, paths)))
    try:
        if not arrays:
            return [str(path) for path in paths], [path.read_bytes() for path in paths]
        content = np.load(paths[0], allow_pickle=False)
        return None, dict(content) if paths[0].suffix == ".npz" else content
    except OSError as error:
        raise DataError("input", f"cannot be read ({error.strerror or error})", got=str(error.filename or paths[0])) from None
    except (ValueError, EOFError) as error:
        raise DataError(f"input {paths[0]}", f"must be an array of numbers ({error})") from None


def _document(names: list[str], outputs: dict[str, Any], guesses: list[list[Any]] | None) -> dict[str, Any]:
    samples = [
        {"input": name, "outputs": {key: array[number] for key, array in outputs.items()}}
        | ({"classes": [{"label": g.label, "index": g.index, "probability": g.score} for g in guesses[number]]} if guesses else {})
        for number, name in enumerate(names)
    ]
    return {"samples": samples}


def _short(array: Any) -> str:
    import numpy as np

    return np.array2string(array, threshold=8, edgeitems=3, precision=4, separator=" ").replace("\n", "")
