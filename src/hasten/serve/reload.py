"""Versions come and go while others are answered.

A new version is opened, proved (`bundle.verify.prove`) and warmed up beside the old one; then it answers at once, requests under way
end on the old one, and that lets its program go. What goes wrong before the switch changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..bundle.read import Bundle
from ..bundle.verify import prove
from ..core.errors import BundleError, DataError, HastenError, NotAllowed, NotLoaded, UnknownModel
from .models import Model, Models

T = TypeVar("T")

UNLOADED = "unloaded"
_FOLDER = re.compile(r"(?!\.+$)[A-Za-z0-9._-]+")  # a name of one folder: no path that leads elsewhere
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
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def check_allowed(self) -> None:
        """Raises NotAllowed where requests may not change what is served."""
        if not self.allowed:
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

    async def reload(self) -> None:
        """Read all that is in service from its folders again. What fails is logged and stays as it was."""
        for model in list(self.models):
            if not model.away:
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
                fresh = await asyncio.to_thread(self._loaded, name, version, path)
                before = self.models.switch(fresh)
                if before is not None:
                    await before.close()

    async def _unload(self, models: Sequence[Model]) -> None:
        async with self._turn:
            for model in models:
                model.away = UNLOADED
            await asyncio.gather(*(model.close() for model in models))

    def _loaded(self, name: str, version: str, path: Path) -> Model:
        """A model that is ready, or NotLoaded."""
        try:
            return load_proved(self.make(name, version, Bundle.open(path)))
        except HastenError as error:
            raise NotLoaded(f"{name} version {version}", f"stays as it was: {str(error).rstrip('.')}") from error

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
        if not (version.isascii() and version.isdigit() and str(int(version)) == version):
            raise DataError("parameter 'version'", "must be a whole number", got=version)
        return [(name, version, newest.bundle.path.absolute().parent / folder)]


def load_proved(model: Model) -> Model:
    """`model`, loaded, after all that can be proved without data was. Raises BundleError and what `Model.load` raises."""
    try:
        check_proved(model.bundle)
        model.load()
    except BaseException:
        model.bundle.close()
        raise
    return model


def check_proved(bundle: Bundle) -> None:
    """Raises BundleError unless the files are those that were written and the program computes here what was certified."""
    for proof in prove(bundle):
        if not proof.ok:
            raise BundleError(proof.name, proof.sentence)


def _entry(model: Model) -> Entry:
    state: Literal["READY", "LOADING", "UNAVAILABLE"] = "READY" if model.ready else "UNAVAILABLE" if model.away else "LOADING"
    return Entry(name=model.name, version=model.version, state=state, reason=model.away)
