"""Care of a store: what is in it, taking away what is no longer used, and finding what was changed.

Safe beside running searches. A process says since when it uses the store (locks.Lease); what anybody alive has used since
is left alone. What goes is moved out of sight by a rename, while nobody can look a step up, and deleted afterwards.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .digest import digest_json, sha256_file
from .locks import Lease, held, remove_if_free
from .store import RECORD, may_be_gone, read_record

Files = Mapping[tuple[int, int], int]
"""Size in bytes of each file by what identifies it on the disk: a file with two names takes its room once."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One step in a store. kind: `torn` where it has no readable record; last_use: Unix time; failure: its description."""

    key: str
    kind: str
    folder: Path
    last_use: float
    files: Files
    failure: Mapping[str, Any] | None = None

    @property
    def retried(self) -> bool:
        """Whether it is a failure that will be tried again."""
        return self.failure is not None and may_be_gone(self.failure)


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What is in a store. users: since when each living process uses it (Unix time); leftovers: bytes that dead ones left."""

    steps: tuple[Kept, ...]
    users: tuple[float, ...]
    leftover_bytes: int

    @property
    def size_bytes(self) -> int:
        return size_of(self.steps)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was taken away, or would be. in_use: how many more would have gone, were they not in use."""

    removed: tuple[Kept, ...]
    freed_bytes: int
    left_bytes: int
    in_use: int


State = Literal["ok", "damaged", "not checked"]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Whether a step is as it was written. removed: it was damaged and is gone."""

    step: Kept
    state: State
    sentence: str
    removed: bool = False


def size_of(steps: Sequence[Kept]) -> int:
    """Bytes on the disk of all these steps together."""
    return sum({file: size for step in steps for file, size in step.files.items()}.values())


def inventory(root: Path) -> Inventory:
    """What is in the store at `root`, least recently used first. Nothing is changed, and no use is counted."""
    dead = [folder for folder in _writers(root) if Lease.opened_at(folder) is None]
    users = [at for folder in _writers(root) if (at := Lease.opened_at(folder)) is not None]
    leftovers = {file: size for folder in dead for file, size in _files(folder).items()}
    steps = sorted(_steps(root), key=lambda step: step.last_use)
    return Inventory(steps=tuple(steps), users=tuple(sorted(users)), leftover_bytes=sum(leftovers.values()))


def collect(root: Path, *, keep_seconds: float, max_bytes: float | None = None, dry_run: bool = False) -> Collected:
    """Remove the steps that nobody has used for `keep_seconds`, then the least recently used ones until the rest takes at
    most `max_bytes`, and what dead processes have left. Never what a running process uses."""
    found = inventory(root)
    names = Counter(file for step in found.steps for file in step.files)  # of how many steps each file is
    since, left, freed, in_use = time.time() - keep_seconds, found.size_bytes, 0, 0
    chosen = []
    for step in found.steps:
        if step.last_use >= since and (max_bytes is None or left <= max_bytes):
            continue
        if step.last_use >= min(found.users, default=time.time() + 1):
            in_use += 1
            continue
        chosen.append(step)
        names.subtract(step.files.keys())
        gone = sum(size for file, size in step.files.items() if not names[file])
        left, freed = left - gone, freed + gone
    removed = chosen if dry_run else take_away(root, chosen)
    abandoned = _abandoned(root, min([since, *found.users]))
    freed += sum(size for _, size in abandoned)
    for checkpoint, _ in abandoned if not dry_run else ():
        checkpoint.unlink(missing_ok=True)
    return Collected(
        removed=tuple(removed), freed_bytes=freed + found.leftover_bytes, left_bytes=left, in_use=in_use + len(chosen) - len(removed)
    )


def _abandoned(root: Path, since: float) -> list[tuple[Path, int]]:
    """Checkpoints of trainings that nobody went on with since then, answers of teachers that nobody asked, and their bytes."""
    files = [*(root / "checkpoints").glob("*.pt*"), *(root / "answers").glob("*/*/*.npy")]
    known = ((file, file.stat()) for file in files)
    return [(file, stat.st_size) for file, stat in known if stat.st_mtime < since]


def take_away(root: Path, steps: Sequence[Kept]) -> list[Kept]:
    """Remove these steps but for those that are in use by now, and what dead processes have left. Returns what is gone."""
    gone, doomed = [], []
    with held(root / "gc.lock"):
        since = float("inf")
        for folder in _writers(root):
            opened = Lease.opened_at(folder)
            if opened is None:
                with contextlib.suppress(FileNotFoundError):  # its process has ended just now, and taken it along
                    doomed.append(folder.rename(_out_of_sight(root)))
            else:
                since = min(since, opened)
        for step in steps:
            if step.folder.exists() and step.last_use == _last_use(step.folder) < since:
                doomed.append(step.folder.rename(_out_of_sight(root)))
                gone.append(step)
    for folder in doomed:
        shutil.rmtree(folder, ignore_errors=True)
    for lock in (root / "locks").iterdir():
        remove_if_free(lock)
    return gone


def check(root: Path, *, repair: bool = False, progress: Callable[[float], None] | None = None) -> list[Checked]:
    """Whether each step is as it was written: its files and its record have the sha256 that the record says.

    repair: remove what is damaged and in nobody's use; it will be made again when it is wanted. progress: told the share
    that is done, 0 to 1.
    """
    steps = list(_steps(root))
    results = []
    for number, step in enumerate(steps, 1):
        with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
            state, sentence = _state(step.folder)
            if step.folder.exists():
                results.append(Checked(step=step, state=state, sentence=sentence))
        if progress:
            progress(number / len(steps))
    if not repair:
        return results
    gone = {step.key for step in take_away(root, [result.step for result in results if result.state == "damaged"])}
    return [replace(result, removed=result.step.key in gone) for result in results]


def _state(folder: Path) -> tuple[State, str]:
    record = read_record(folder)
    if record is None:
        return "damaged", f"{RECORD} is missing or torn"
    if "digest" not in record:
        return "not checked", "it was written by a version that kept no sha256"
    if record.pop("digest") != digest_json(record):
        return "damaged", f"{RECORD} was changed"
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file() and path != folder / RECORD}
    for name in sorted(there.keys() | record["files"].keys()):
        if name not in there:
            return "damaged", f"{name} is missing"
        if name not in record["files"]:
            return "damaged", f"{name} was added"
        if sha256_file(there[name]) != record["files"][name]:
            return "damaged", f"{name} was changed"
    return "ok", ""


def _steps(root: Path) -> Iterator[Kept]:
    for folder in sorted((root / "objects").glob("*/*")):
        record = read_record(folder) or {}
        try:
            last_use, files = _last_use(folder), _files(folder)
        except FileNotFoundError:  # taken away meanwhile
            continue
        kind, failure = record.get("kind", "torn"), record.get("failure")
        yield Kept(key=folder.name, kind=kind, folder=folder, last_use=last_use, files=files, failure=failure)


def _last_use(folder: Path) -> float:
    record = folder / RECORD
    return (record if record.exists() else folder).stat().st_mtime


def _files(folder: Path) -> dict[tuple[int, int], int]:
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                stat = os.stat(os.path.join(place, name))
                found[stat.st_dev, stat.st_ino] = stat.st_size
    return found


def _out_of_sight(root: Path) -> Path:
    # Beside the folders of writers, where the next collection finds it if this one is killed. No folder of its own: the disk may be full.
    return root / "tmp" / f"gc-{uuid.uuid4().hex}"


def _writers(root: Path) -> list[Path]:
    return sorted((root / "tmp").iterdir())
