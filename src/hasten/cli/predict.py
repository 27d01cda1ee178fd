"""hasten predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import output, shared


@click.command(short_help="Run a bundle on pictures or tensors.")
@click.argument("bundle", type=shared.PATH)
@click.argument("inputs", type=shared.PATH, nargs=-1, required=True, metavar="INPUT...")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Classes to show for each input.")
@shared.as_json
@shared.everywhere
def command(bundle: Path, inputs: tuple[Path, ...], top: int, json_: bool) -> None:
    """Run a bundle on pictures, or on tensors in one .npz or .npy file.

    \b
    hasten predict out/digits seven.png four.png
    hasten predict out/text tensors.npz --json
    """
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
