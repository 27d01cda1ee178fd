"""Versions come and go while others are answered.

A new version is opened, proved (`bundle.verify.prove`) and warmed up beside the old one; then it answers at once, requests under way
end on the old one, and that lets its program go. What goes wrong before the switch changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..bundle.layout import PROGRAM
from ..bundle.read import Bundle
from ..bundle.verify import prove
from ..core.errors import BundleError, DataError, HastenError, NotAllowed, NotLoaded, NotPossibleHere, UnknownModel
from ..core.units import format_bytes
from .access import CALLER
from .models import Model, Models

T = TypeVar("T")

UNLOADED, EVICTED = "unloaded", "evicted: it is loaded when somebody asks"
NO_REPLICA = "all its replicas have ended, and are started again"
_FOLDER = re.compile(r"(?!\.+$)[A-Za-z0-9._-]+")  # a name of one folder: no path that leads elsewhere
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One version in the index. state: READY, LOADING or UNAVAILABLE, as the protocol has it; reason: why it is not ready."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


@dataclass(kw_only=True)
class Repository:
    """The bundles behind `models`, loaded and unloaded one at a time. make: a model, not yet loaded, of its name, version and bundle."""

    models: Models
    make: Callable[[str, str, Bundle], Model]
    allowed: bool = False
    memory_bytes: float = math.inf
    """All programs that are loaded together, by `footprint`. While a version is replaced the old one counts as gone already."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Those that do not fit beside the ones before them are loaded when somebody asks. Raises NotPossibleHere."""
        if math.isinf(self.memory_bytes):
            return
        used = 0
        for model in self.models:
            self._check_fits(model)
            size = _size(model)
            model.evicted = used + size > self.memory_bytes
            used += 0 if model.evicted else size

    def start(self) -> None:
        """Load all that fits, one after the other, proved. Raises BundleError and what `Model.load` raises."""
        for model in self.models:
            if model.evicted:
                for file in model.bundle.manifest.files:
                    model.bundle.file(file)
            else:
                load_proved(model)

    def check_allowed(self) -> None:
        """Raises NotAllowed where requests may not change what is served. Where keys are needed, the key's own right counts."""
        rights = CALLER.get()
        if rights is not None and not rights.reload:
            raise NotAllowed("repository", "is not changed with this key", hint="Its entry in the file of keys must say reload = true")
        if rights is None and not self.allowed:
            raise NotAllowed("repository", "is not changed by requests here", hint="`hasten serve --allow-reload` lets them")

    def index(self, *, ready: bool = False) -> list[Entry]:
        """Every version. ready: only those that answer."""
        entries = [_entry(model) for name in self.models.names for model in self.models.all_of(name)]
        return [entry for entry in entries if entry.state == "READY" or not ready]

    async def load(self, name: str, *, version: str | None = None, folder: str | None = None) -> None:
        """Read every version of `name`, or one, from its folder again and let that answer, unloaded ones too.

        folder: the name of a folder beside that of the newest version, which becomes `version`, by default a new one. Whoever stops
        waiting for this stops nothing. Raises UnknownModel, DataError, NotLoaded.
        """
        await self._finish(self._load(self._wanted(name, version, folder)))

    async def unload(self, name: str, *, version: str | None = None) -> None:
        """Answer no more requests to `name`, and let its programs go when those under way have ended. Raises UnknownModel."""
        await self._finish(self._unload(self._known(name, version)))

    async def recall(self, model: Model) -> Model:
        """The version that was evicted, loaded again; those that were asked least recently make room. Raises NotPossibleHere."""
        return await self._finish(self._recalled(model.name, model.version))

    async def reload(self) -> None:
        """Read all that is in service from its folders again. What fails is logged and stays as it was."""
        for model in list(self.models):
            if not (model.away or model.evicted):  # what was evicted is read anew when somebody asks
                try:
                    await self.load(model.name, version=model.version)
                except HastenError as error:
                    _log.error("%s", error)

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """`work` to its end, also where whoever asked for it is cancelled: half of it would leave a program that nobody closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _load(self, wanted: Sequence[tuple[str, str, Path]]) -> None:
        async with self._turn:
            for name, version, path in wanted:
                await self._take(name, version, path)

    async def _recalled(self, name: str, version: str) -> Model:
        async with self._turn:
            model = self.models.get(name, version)
            if not model.evicted:  # somebody else wanted it too, and was first
                return model
            try:
                return await self._take(name, version, model.bundle.path, recalled=model)
            except NotLoaded as error:
                raise NotPossibleHere(name, f"cannot be loaded again: {str(error).rstrip('.')}") from error

    async def _take(self, name: str, version: str, path: Path, *, recalled: Model | None = None) -> Model:
        """The bundle in `path`, loaded and in service. recalled: what it was before it was evicted. Raises NotLoaded."""
        opened = await asyncio.to_thread(self._opened, name, version, path)
        await self._make_room(opened)
        fresh = await asyncio.to_thread(self._loaded, opened)
        if recalled is not None and recalled.bundle.manifest == fresh.bundle.manifest:
            fresh.token = recalled.token
        before = self.models.switch(fresh)
        if before is not None:
            await before.close()
        return fresh

    async def _make_room(self, wanted: Model) -> None:
        """Evict who was asked least recently until `wanted` fits."""
        if math.isinf(self.memory_bytes):
            return
        others = [model for model in self.models if model.loaded and (model.name, model.version) != (wanted.name, wanted.version)]
        others.sort(key=lambda model: model.asked)
        used = _size(wanted) + sum(_size(model) for model in others)
        for model in others:
            if used <= self.memory_bytes:
                return
            used -= _size(model)
            model.evicted = True
            await model.close()

    async def _unload(self, models: Sequence[Model]) -> None:
        async with self._turn:
            for model in models:
                model.away = UNLOADED
            await asyncio.gather(*(model.close() for model in models))

    def _opened(self, name: str, version: str, path: Path) -> Model:
        """A model that is not loaded yet, or NotLoaded."""
        try:
            model = self.make(name, version, Bundle.open(path))
            self._check_fits(model)
        except HastenError as error:
            raise _not_loaded(name, version, error) from error
        return model

    def _loaded(self, model: Model) -> Model:
        """`model`, ready, or NotLoaded."""
        try:
            return load_proved(model)
        except HastenError as error:
            raise _not_loaded(model.name, model.version, error) from error

    def _check_fits(self, model: Model) -> None:
        if math.isfinite(self.memory_bytes) and _size(model) > self.memory_bytes:
            need = format_bytes(_size(model))
            raise NotPossibleHere("--memory", f"must be at least {need} for {model.bundle.name}", got=format_bytes(self.memory_bytes))

    def _known(self, name: str, version: str | None) -> list[Model]:
        known = self.models.all_of(name)
        found = [model for model in known if version is None or model.version == version]
        if not found:
            raise UnknownModel(f"version of {name}", f"must be one of {', '.join(model.version for model in known)}", got=version)
        return found

    def _wanted(self, name: str, version: str | None, folder: str | None) -> list[tuple[str, str, Path]]:
        if folder is None:
            return [(name, model.version, model.bundle.path) for model in self._known(name, version)]
        newest = self.models.all_of(name)[-1]
        version = version or str(int(newest.version) + 1)
        if not _FOLDER.fullmatch(folder):
            raise DataError("parameter 'folder'", "must be the name of a folder beside that of the newest version", got=folder)
        if not _VERSION.fullmatch(version):
            raise DataError("parameter 'version'", "must be a whole number", got=version)
        return [(name, version, newest.bundle.path.absolute().parent / folder)]


def load_proved(model: Model) -> Model:
    """`model`, loaded, after all that can be proved without data was. Raises BundleError and what `Model.load` raises."""
    try:
        model.open()  # what is proved is what will answer
        check_proved(model.bundle)
        model.load()
    except BaseException:
        model.bundle.close()
        raise
    return model


def footprint(bundle: Bundle) -> int:
    """Bytes that its program takes: the peak that was measured for the certificate, else the size of the program's files."""
    measured = (bundle.answer.get("answer") or {}).get("peak_memory_bytes")
    return measured or sum(file.size_bytes for name, file in bundle.manifest.files.items() if name.startswith(f"{PROGRAM}/"))


def _size(model: Model) -> int:
    """Bytes that all its programs take."""
    return model.most_programs * footprint(model.bundle)


def _not_loaded(name: str, version: str, error: HastenError) -> NotLoaded:
    return NotLoaded(f"{name} version {version}", f"stays as it was: {str(error).rstrip('.')}")


def check_proved(bundle: Bundle) -> None:
    """Raises BundleError unless the files are those that were written and the program computes here what was certified."""
    _ = bundle.runtime  # one that is not known here says so itself
    for proof in prove(bundle):
        if not proof.ok:
            raise BundleError(proof.name, proof.sentence, hint=proof.hint)


def _entry(model: Model) -> Entry:
    reason = model.away or (EVICTED if model.evicted else "") or (NO_REPLICA if model.loaded and not model.programs else "")
    state: Literal["READY", "LOADING", "UNAVAILABLE"] = "READY" if model.ready else "UNAVAILABLE" if reason else "LOADING"
    return Entry(name=model.name, version=model.version, state=state, reason=reason)
