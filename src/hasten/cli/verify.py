"""hasten verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from . import output, shared


@click.command(short_help="Prove that a bundle is what was certified.")
@click.argument("bundle", type=shared.PATH)
@click.option("--data", metavar="JOB.toml|PATH", help="The job file or the data of the certificate: measure quality again.")
@shared.as_json
@shared.everywhere
def command(bundle: Path, data: str | None, json_: bool) -> int:
    """Prove that a bundle is what was certified, and that this machine computes the same with it.

    Checks every file's size and sha256, the preprocessing and the outputs on the golden examples; with --data the quality too.

    \b
    hasten verify out/digits
    hasten verify out/digits --data examples/digits/job.toml

    Exits with 2 when something does not hold.
    """
    from .. import api

    proofs = api.verify(bundle, data=data)
    good = all(proof.ok for proof in proofs)
    if json_:
        output.document({"ok": good, "proofs": [asdict(proof) for proof in proofs]})
    else:
        output.table(("", "checked", ""), [("ok" if p.ok else "NO", p.name, p.sentence) for p in proofs])
        if data is not None and good and not any(proof.name == "quality" for proof in proofs):
            output.say("Quality was not measured again: the bundle holds no outcomes to compare with, as its answer is lossless.")
    return 0 if good else 2
