"""An errand on its way to another machine, and what comes back. Machines share no disk.

The only files that travel are finished steps, as whole folders under their keys (content that never changes, so that it is sent to
a machine once), and the folder that the errand fills. Paths to them are written relative to the store, and are read as paths in the other
machine's store.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.archive import tar, untar
from ..core.errors import HastenError, WorkerError
from ..core.store import Store
from ..measure.errands import Station
from ..measure.worker import foreign

_KERNEL = Path("/sys")  # such files (of counters of energy) are named alike everywhere, and stay where they are


def not_yet(store: Store) -> Path:
    """Stands for the folder of a step that is not under way yet."""
    return store.root / "tmp" / "ahead" / "step"


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """errand: the function and its arguments, pickled; needs: keys of the steps whose files it reads; writes: the folder on this
    side that gets what it writes, None where it writes nothing."""

    errand: bytes
    needs: tuple[str, ...]
    writes: Path | None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came of an errand. result: its value, or the error; files: what it wrote, a tar."""

    ok: bool
    result: Any
    files: bytes

    def open(self, writes: Path | None) -> Any:
        """The value, the files put into `writes`. Raises the error."""
        if not self.ok:
            raise self.result
        if writes is not None:
            untar(self.files, writes)
        return self.result


def pack(store: Store, errand: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parcel:
    """The errand as a parcel. Raises WorkerError where a path is of no step in the store."""
    buffer = io.BytesIO()
    packer = _Packer(buffer, store)
    packer.dump((errand, args, dict(kwargs)))
    return Parcel(errand=buffer.getvalue(), needs=tuple(sorted(packer.needs)), writes=packer.writes)


def carry_out(errand: bytes, station: Station, fetch: Callable[[str], bytes], needs: tuple[str, ...]) -> Reply:
    """Do what a parcel asks, on the machine that it came to. fetch: gives the files of a step, a tar."""
    with station.store.scratch() as folder:
        try:
            for key in needs:
                station.store.receive(key, lambda into, key=key: untar(fetch(key), into))  # type: ignore[misc]
            function, args, kwargs = _Unpacker(io.BytesIO(errand), station.store, folder).load()
            return Reply(ok=True, result=function(station, *args, **kwargs), files=tar(folder))
        except HastenError as error:
            return Reply(ok=False, result=error, files=b"")
        except Exception as error:  # noqa: BLE001 (the border between machines: the other side must hear of it, whatever it was)
            return Reply(ok=False, result=foreign(error, "errand"), files=b"")


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, store: Store) -> None:
        super().__init__(file)
        self._store = store
        self.needs: set[str] = set()
        self.writes: Path | None = None

    def persistent_id(self, item: Any) -> tuple[str, ...] | None:
        """How a path is written; None for all else, which is pickled."""
        if not isinstance(item, Path) or item.is_relative_to(_KERNEL):
            return None
        if not item.is_relative_to(self._store.root):
            raise WorkerError("errand", f"cannot take {item} to another machine, since it is not in the store", cause="error")
        room, *parts = item.relative_to(self._store.root).parts
        if room in ("checkpoints", "answers"):  # nothing travels: each machine keeps those of what it trains
            return ("reads", room, *parts)
        outer, inner, *rest = parts
        if room == "tmp":  # of one process, of one step
            self.writes = self._store.root / room / outer / inner
            return ("writes", *rest)
        self.needs.add(inner)
        return ("reads", room, outer, inner, *rest)


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, store: Store, writes: Path) -> None:
        super().__init__(file)
        self._store, self._writes = store, writes

    def persistent_load(self, written: Any) -> Path:
        kind, *parts = written
        return (self._writes if kind == "writes" else self._store.root).joinpath(*parts)
