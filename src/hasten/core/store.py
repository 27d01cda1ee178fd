"""The content-addressed store: what was done once is not done again, and what was half done does not exist.

    root/objects/ab/<key>/record.json   what it is, written last; the folder appears by one rename
    root/objects/ab/<key>/...           files of the step
    root/journal.jsonl                  one line a start and a finish of each step: who wants to know what ran
    root/measure.lock                   held by the one process that measures on this machine

A key is the digest of all that decides the result: content of the inputs, the step and its options, versions of the
libraries, and for measurements the machine. Failures are kept too, with their cause, and are tried again only where the
cause may be gone (time-out, memory, a kill from outside).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .digest import digest_json
from .errors import HastenError, NotPossibleHere, WorkerError

_FORMAT = 1  # raise it when the meaning of stored records changes


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished step. value: JSON; folder: its files; fresh: whether this call did the work; seconds: what the work took."""

    key: str
    value: Any
    folder: Path
    fresh: bool
    seconds: float


class StoredFailure(HastenError):
    """A step that failed before, and would fail again."""

    exit_code = 3


class DiskFull(NotPossibleHere):
    """The disk of the store is full: no fault of the step, so that it is not kept as its failure."""

    def __init__(self) -> None:
        super().__init__("store", "needs space on the disk, which is full", hint="Free some, or set HASTEN_STORE to another disk")


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` says that no space is left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Store:
    """A folder of finished steps, safe against kill -9: a step is there as a whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            (root / "objects").mkdir(parents=True, exist_ok=True)
            (root / "tmp").mkdir(exist_ok=True)
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
        """Whether the step `key` was done, or failed for good."""
        return (self.folder(key) / "record.json").exists()

    def receive(self, key: str, fill: Callable[[Path], None]) -> None:
        """Take over a step that another store finished, if it is not finished here: `fill(folder)` writes all its files."""
        with contextlib.suppress(StoredFailure):
            if self._read(self.folder(key), key):
                return
        with _disk_errors(), self.scratch() as temporary:
            fill(temporary)
            shutil.rmtree(self.folder(key), ignore_errors=True)  # a failure, which was this machine's own
            self._place(temporary, self.folder(key))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the store's disk, gone afterwards."""
        folder = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def step(self, kind: str, identity: Mapping[str, Any], work: Callable[[Path], Any]) -> Record:
        """The finished step `kind` of `identity`: from the store, or by `work(folder)`, whose JSON-like value is kept.

        Raises what `work` raises; a HastenError is recorded, so that the same failure is not paid for twice.
        """
        key = self.key(kind, identity)
        folder = self.folder(key)
        if found := self._read(folder, key):
            return found
        temporary = Path(tempfile.mkdtemp(prefix=f"{key[:8]}-", dir=self.root / "tmp"))
        self._note("start", kind, key)
        began = time.perf_counter()
        failure: HastenError | None = None
        value: Any = None
        try:
            with _disk_errors():
                try:
                    value = work(temporary)
                except WorkerError as error:
                    failure = error
                    if error.cause not in ("timeout", "memory", "killed"):
                        self._keep(temporary, folder, kind, identity, failure=_describe(error), seconds=time.perf_counter() - began)
                except DiskFull as error:
                    failure = error
                except HastenError as error:
                    failure = error
                    self._keep(temporary, folder, kind, identity, failure=_describe(error), seconds=time.perf_counter() - began)
                else:
                    seconds = time.perf_counter() - began
                    self._keep(temporary, folder, kind, identity, value=value, seconds=seconds)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if failure is not None:
            self._note("failed", kind, key)
            raise failure
        self._note("finish", kind, key)
        return Record(key=key, value=value, folder=folder, fresh=True, seconds=seconds)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Held while something is timed: one process measures at a time on a machine."""
        with (self.root / "measure.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)

    def journal(self) -> list[dict[str, Any]]:
        """Every start, finish and failure of a step, oldest first."""
        path = self.root / "journal.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]

    def _read(self, folder: Path, key: str) -> Record | None:
        try:
            record = json.loads((folder / "record.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:  # torn by a full disk: as if it never was
            shutil.rmtree(folder, ignore_errors=True)
            return None
        if "failure" in record:
            error = StoredFailure("step", "failed before")
            error.args = (record["failure"]["message"],)
            raise error
        return Record(key=key, value=record["value"], folder=folder, fresh=False, seconds=record["seconds"])

    def _keep(self, temporary: Path, folder: Path, kind: str, identity: Mapping[str, Any], **content: Any) -> None:
        record = {"kind": kind, "identity": identity, "time": time.time(), **content}
        text = json.dumps(record, default=str)
        (temporary / "record.json").write_text(text)
        self._place(temporary, folder)

    @staticmethod
    def _place(temporary: Path, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # another process finished the same step first: equal content, so keep that one

    def _note(self, event: str, kind: str, key: str) -> None:
        line = json.dumps({"event": event, "kind": kind, "key": key, "pid": os.getpid(), "time": time.time()})
        with (self.root / "journal.jsonl").open("a") as file:
            file.write(line + "\n")


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull from None
        raise


def _describe(error: HastenError) -> dict[str, str]:
    return {"type": type(error).__name__, "message": str(error)}
