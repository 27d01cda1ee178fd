"""hasten store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..core.errors import JobError
from ..report.words import count
from . import output, shared

if TYPE_CHECKING:
    from ..core.store_care import Kept

F = TypeVar("F", bound=Callable[..., Any])


def _place(command: F) -> F:
    return click.option("--store", "store_", type=shared.PATH, metavar="DIR", help="Which store. Default: the user's cache.")(command)


@click.group(short_help="Look after the finished steps that are kept.")
@shared.everywhere
def command() -> None:
    """Look after the store: the finished steps that are kept, so that nothing is done twice.

    \b
    hasten store ls
    hasten store gc --keep 30d --max-size 5GB
    hasten store verify --repair
    """


@command.command(short_help="What is kept, and what failed.")
@_place
@shared.as_json
@shared.everywhere
def ls(store_: Path | None, json_: bool) -> None:
    """Show what is kept by kind, its size and when it was last used; and each failure with its cause.

    \b
    hasten store ls
    hasten store ls --store out/store --json
    """
    from ..core.store_care import inventory
    from ..core.units import format_bytes

    root = _root(store_)
    found = inventory(root)
    kinds = _by_kind(found.steps)
    failures = [step for step in found.steps if step.failure is not None]
    if json_:
        output.document({
            "store": str(root), "size_bytes": found.size_bytes, "users": len(found.users), "leftover_bytes": found.leftover_bytes,
            "kinds": kinds, "failures": [_failure(step) for step in failures],
        })  # fmt: skip
        return
    rows = [(k["kind"], f"{k['steps']}", f"{k['failed']}", format_bytes(k["size_bytes"]), _ago(k["last_use"])) for k in kinds]
    output.table(("kind", "steps", "failed", "size", "last used"), rows)
    users = f", in use by {len(found.users)} now" if found.users else ""
    output.say("", f"{root}: {count(len(found.steps), 'step')}, {format_bytes(found.size_bytes)}{users}.")
    if found.leftover_bytes:
        output.say(f"{format_bytes(found.leftover_bytes)} were left by processes that were killed: `hasten store gc` removes them.")
    if failures:
        output.say("")
        told = [_failure(step) for step in failures]
        output.table(
            ("failed", "cause", "tried again", ""), [(f["kind"], f["cause"], "yes" if f["retried"] else "no", f["message"]) for f in told]
        )


@command.command(short_help="Remove what was not used for long.")
@click.option("--keep", default="30d", show_default=True, metavar="TIME", help="Keep what was used within this time: 12h, 30d.")
@click.option("--max-size", metavar="SIZE", help="Then remove what was used least recently until the rest takes this much: 5GB.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@_place
@shared.as_json
@shared.everywhere
def gc(keep: str, max_size: str | None, dry_run: bool, store_: Path | None, json_: bool) -> None:
    """Remove steps that were not used for long, and what killed processes have left; never what a running process uses.

    \b
    hasten store gc
    hasten store gc --keep 7d --max-size 5GB --dry-run
    """
    from ..core.store_care import collect
    from ..core.units import format_bytes, parse_duration, parse_size

    seconds = parse_duration(keep, field="--keep")
    limit = None if max_size is None else parse_size(max_size, field="--max-size")
    done = collect(_root(store_), keep_seconds=seconds, max_bytes=limit, dry_run=dry_run)
    if json_:
        output.document({
            "dry_run": dry_run, "removed": _by_kind(done.removed), "freed_bytes": done.freed_bytes, "left_bytes": done.left_bytes,
            "in_use": done.in_use,
        })  # fmt: skip
        return
    if done.removed:
        output.table(
            ("kind", "steps", "size"), [(k["kind"], f"{k['steps']}", format_bytes(k["size_bytes"])) for k in _by_kind(done.removed)]
        )
        output.say("")
    verb = "would be freed" if dry_run else "freed"
    output.say(f"{count(len(done.removed), 'step')}, {format_bytes(done.freed_bytes)} {verb}; {format_bytes(done.left_bytes)} stay.")
    if done.in_use:
        output.say(f"{done.in_use} more would go, but a running process uses them.")


@command.command(short_help="Find what was torn or changed.")
@click.option("--repair", is_flag=True, help="Remove what is damaged: it is made again when it is wanted.")
@_place
@shared.as_json
@shared.everywhere
def verify(repair: bool, store_: Path | None, json_: bool) -> int:
    """Check every file of every step against the sha256 that was recorded when it was made.

    \b
    hasten store verify
    hasten store verify --repair

    Exits with 2 when something is damaged and still there.
    """
    from ..core.store_care import check

    checked = check(_root(store_), repair=repair)
    damaged = [result for result in checked if result.state == "damaged"]
    counts = {state.replace(" ", "_"): sum(r.state == state for r in checked) for state in ("ok", "damaged", "not checked")}
    if json_:
        found = [{"kind": r.step.kind, "key": r.step.key, "sentence": r.sentence, "removed": r.removed} for r in damaged]
        output.document({**counts, "found": found})
    else:
        if damaged:
            output.table(("kind", "key", "", ""), [(r.step.kind, r.step.key, r.sentence, _fate(r.removed, repair)) for r in damaged])
            output.say("")
        output.say(
            f"As written: {counts['ok']}. Damaged: {counts['damaged']}. Not checked (of a version without sha256): {counts['not_checked']}."
        )
    return 0 if all(result.removed for result in damaged) else 2


def _root(given: Path | None) -> Path:
    from ..core.store import Store

    if given is None:
        return Store.default().root
    if not (given / "objects").is_dir():
        raise JobError("--store", "must be the folder of a store", got=str(given), hint="It is what HASTEN_STORE or --store named")
    return Store(given).root


def _by_kind(steps: Sequence[Kept]) -> list[dict[str, Any]]:
    """Steps by kind, most room first."""
    from ..core.store_care import size_of

    groups = {kind: [step for step in steps if step.kind == kind] for kind in sorted({step.kind for step in steps})}
    rows: list[dict[str, Any]] = []
    for kind, group in groups.items():
        last_use = max(step.last_use for step in group)
        failed = sum(step.failure is not None for step in group)
        row = {"kind": kind, "steps": len(group), "failed": failed, "size_bytes": size_of(group), "last_use": last_use}
        rows.append({**row, "last_use_utc": datetime.fromtimestamp(last_use, UTC).isoformat(timespec="seconds")})
    return sorted(rows, key=lambda row: -row["size_bytes"])


def _failure(step: Kept) -> dict[str, Any]:
    failure = step.failure or {}
    return {
        "kind": step.kind, "key": step.key, "cause": failure.get("cause", "unknown"), "message": failure["message"],
        "retried": step.retried, "last_use": step.last_use,
    }  # fmt: skip


def _ago(seconds: float) -> str:
    age = time.time() - seconds
    for unit, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if age >= size:
            count = int(age / size)
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "just now"


def _fate(removed: bool, repair: bool) -> str:
    return "removed" if removed else "in use: repair later" if repair else "kept: --repair removes it"
