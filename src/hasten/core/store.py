"""The content-addressed store: what was done once is not done again, and what was half done does not exist.

    root/objects/ab/<key>/record.json   what it is, with the sha256 of each file beside it; the folder appears by one rename
    root/objects/ab/<key>/...           files of the step
    root/tmp/<pid>-.../                 what one process is writing; its file `lease` is locked while that process lives
    root/locks/<key>                    locked by the one process that does this step; the others wait for it
    root/journal.jsonl                  one line a start, a wait and an end of each step: who wants to know what ran
    root/gc.lock                        shared for a moment by who finds a step; held alone by who takes steps away (store_care.py)
    root/measure.lock                   held by the one process that measures on this machine

A key is the digest of all that decides the result: content of the inputs, the step and its options, versions of the
libraries, and for measurements the machine. Failures are kept too, with their cause, and are tried again only where the
cause may be gone (`may_be_gone`). When a step was last used is the time of its record.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from . import errors
from .digest import digest_json, plain, sha256_file
from .errors import DiskFull, HastenError, MissingExtra, NotPossibleHere, WorkerError, is_disk_full
from .locks import Lease, held, only_one
from .need import has

RECORD = "record.json"

_FORMAT = 1  # raise it when the meaning of stored records changes


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished step. value: JSON; folder: its files; fresh: whether this call did the work; seconds: what the work took;
    waited_seconds: for another process that did it meanwhile."""

    key: str
    value: Any
    folder: Path
    fresh: bool
    seconds: float
    waited_seconds: float = 0.0


class Store:
    """A folder of finished steps, safe against kill -9: a step is there as a whole or not at all.

    Several processes may use it at once: a step that one of them does, the others wait for. What a process has used since
    its Store did its first step is never taken away while the Store is kept.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for folder in ("objects", "tmp", "locks"):
                (root / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotPossibleHere(
                "store", f"must be a folder that can be written ({error})", hint="Set HASTEN_STORE to another place"
            ) from None

    @classmethod
    def default(cls) -> Store:
        """HASTEN_STORE, else the user's cache folder."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(Path(os.environ.get("HASTEN_STORE") or cache / "hasten"))

    @staticmethod
    def key(kind: str, identity: Mapping[str, Any]) -> str:
        """The name of the step `kind` of `identity`."""
        return digest_json([_FORMAT, kind, identity])

    def folder(self, key: str) -> Path:
        """Where the step `key` is, once it is finished."""
        return self.root / "objects" / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether the step `key` was done, or failed in a way that would come again."""
        try:
            return self._find(key) is not None
        except HastenError:
            return True

    def receive(self, key: str, fill: Callable[[Path], None]) -> None:
        """Take over a step that another store finished, if it is not finished here: `fill(folder)` writes all its files."""
        with _disk_errors(), only_one(self.root / "locks" / key, waits=lambda: None):
            with contextlib.suppress(HastenError):  # a failure, which was this machine's own
                if self._find(key):
                    return
            with self.scratch(f"{key[:8]}-") as temporary:
                fill(temporary)
                self._place(temporary, key)

    def step(self, kind: str, identity: Mapping[str, Any], work: Callable[[Path], Any]) -> Record:
        """The finished step `kind` of `identity`: from the store, or by `work(folder)`, whose JSON-like value is kept.

        Raises what `work` raises; a HastenError is recorded, so that the same failure is not paid for twice.
        """
        key = self.key(kind, identity)
        with _disk_errors():
            if found := self._find(key):
                return found
            began = time.perf_counter()
            with only_one(self.root / "locks" / key, waits=lambda: self._note("wait", kind, key)):
                if found := self._find(key):
                    return replace(found, waited_seconds=time.perf_counter() - began)
                return self._do(key, kind, identity, work)

    @contextlib.contextmanager
    def scratch(self, prefix: str = "") -> Iterator[Path]:
        """A folder on the store's disk that is gone afterwards, or after the next `hasten store gc` where this process was killed."""
        with _disk_errors():
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self._lease.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Held while something is timed: one process measures at a time on a machine."""
        with held(self.root / "measure.lock"):
            yield

    def journal(self) -> list[dict[str, Any]]:
        """Every start, wait, finish and failure of a step, oldest first."""
        path = self.root / "journal.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(_parsed, lines) if event]

    @cached_property
    def _lease(self) -> Lease:
        with held(self.root / "gc.lock", shared=True):  # or it would look like a dead one's for a moment
            return Lease(self.root / "tmp")

    def _find(self, key: str) -> Record | None:
        """The step, or None where it must be done. Raises its failure where that would come again."""
        lease, folder = self._lease, self.folder(key)
        with held(self.root / "gc.lock", shared=True):
            record = read_record(folder)
            if record is None or ("failure" in record and may_be_gone(record["failure"])):
                return None
            _use(folder, lease)
        if "failure" in record:
            raise _as_error(record["failure"])
        return Record(key=key, value=record["value"], folder=folder, fresh=False, seconds=record["seconds"])

    def _do(self, key: str, kind: str, identity: Mapping[str, Any], work: Callable[[Path], Any]) -> Record:
        with self.scratch(f"{key[:8]}-") as temporary:
            self._note("start", kind, key)
            began = time.perf_counter()
            try:
                with _disk_errors():
                    value = work(temporary)
            except HastenError as error:
                if not isinstance(error, DiskFull):
                    self._keep_failure(error, key, {"kind": kind, "identity": identity, "seconds": time.perf_counter() - began})
                self._note("failed", kind, key)
                raise
            seconds = time.perf_counter() - began
            folder = self._keep(temporary, key, {"kind": kind, "identity": identity, "seconds": seconds, "value": value})
        self._note("finish", kind, key)
        return Record(key=key, value=value, folder=folder, fresh=True, seconds=seconds)

    def _keep_failure(self, error: HastenError, key: str, about: Mapping[str, Any]) -> None:
        with self.scratch() as empty:  # what a failed step has written is worth nothing
            self._keep(empty, key, {**about, "failure": _describe(error)})

    def _keep(self, temporary: Path, key: str, content: Mapping[str, Any]) -> Path:
        files = {p.relative_to(temporary).as_posix(): sha256_file(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
        record = json.loads(json.dumps({**content, "time": time.time(), "files": files}, default=plain))
        (temporary / RECORD).write_text(json.dumps({**record, "digest": digest_json(record)}))
        return self._place(temporary, key)

    def _place(self, temporary: Path, key: str) -> Path:
        """`temporary` becomes the step `key`, which this process holds the lock of. What was there, a failure or torn, steps aside."""
        _use(temporary, self._lease)
        folder = self.folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with self.scratch() as aside:
            if folder.exists():
                folder.rename(aside / key)
            temporary.rename(folder)
        return folder

    def _note(self, event: str, kind: str, key: str) -> None:
        line = json.dumps({"event": event, "kind": kind, "key": key, "pid": os.getpid(), "time": time.time()})
        with (self.root / "journal.jsonl").open("a") as file:
            file.write(line + "\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the step in `folder`; None where there is none, or a torn one, which counts as if it never was."""
    try:
        return _parsed((folder / RECORD).read_text(encoding="utf8"))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None


def may_be_gone(failure: Mapping[str, Any]) -> bool:
    """Whether trying again may help: after too little time or memory, a kill from outside, or where a missing package is there now."""
    package = failure.get("package")
    return failure.get("cause") in ("timeout", "memory", "killed") or bool(package and has(package))


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _use(folder: Path, lease: Lease) -> None:
    now = max(time.time(), lease.opened)  # also where the clock was set back
    os.utime(folder / RECORD, (now, now))


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull from None
        raise


def _describe(error: HastenError) -> dict[str, Any]:
    """A failure as JSON. cause: one word; package: what is missing; known: what the error knew, to raise it again as it was."""
    known = next(kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)  # a plug-in's own is not
    failure = {"type": known, "message": str(error), "cause": "refused", "known": error.__dict__}
    if isinstance(error, WorkerError):
        failure["cause"] = error.cause
    elif isinstance(error, MissingExtra):
        failure |= {"cause": "missing", "package": error.package}
    return failure


def _as_error(failure: Mapping[str, Any]) -> HastenError:
    kind = getattr(errors, failure["type"], HastenError)
    return errors.rebuild(kind, failure["message"], failure.get("known", {}))
