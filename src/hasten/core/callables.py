"""Code that a job names: `file.py:function` relative to the job file, or `package.module:function`.

It runs only because the user named it. What it raises is translated here, once.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from .digest import digest_bytes
from .errors import HastenError, JobError

_FORMS = "file.py:function or package.module:function"


def is_callable_source(source: str | None) -> bool:
    """Whether `source` is written like a callable. Nothing is imported and no file is looked at."""
    if not source:
        return False
    place, colon, name = source.rpartition(":")
    return bool(colon) and name.isidentifier() and (place.endswith(".py") or all(p.isidentifier() for p in place.split(".")))


def resolve(source: str, folder: Path, *, field: str) -> Callable[..., Any]:
    """The callable that `source` names; `folder`: where relative files and modules are looked for first.

    field: the key of the job that holds `source`, for messages. Raises JobError.
    """
    place, colon, name = source.rpartition(":")
    if not colon or not place or not name:
        raise JobError(field, f"must be {_FORMS}", got=source)
    with _importable(_home(place, folder)):
        module = _import_file(place, folder, field) if place.endswith(".py") else _import_module(place, field)
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, [n for n, v in vars(module).items() if callable(v)], n=1)
        raise JobError(field, f"must name a function of {place}", got=name, hint=f"Did you mean {near[0]!r}?" if near else "")
    found = getattr(module, name)
    if not callable(found):
        raise JobError(field, f"must name a function, but {source} is of type {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def call(source: str, folder: Path, *, field: str, what: str = "a value", error: type[JobError] = JobError) -> Any:
    """What the callable returns when it is called without arguments.

    what: what it should return, for the message; error: the class that its own exceptions are translated into.
    """
    function = resolve(source, folder, field=field)
    with _importable(_home(source.rpartition(":")[0], folder)):
        try:
            return function()
        except HastenError:
            raise
        except (Exception, SystemExit) as foreign:
            raise error(source, f"must return {what}, but raised {one_line(foreign)}") from foreign


def one_line(error: BaseException, *, limit: int = 240) -> str:
    """`ValueError: what it says` on one line of at most `limit` characters: a foreign error inside a message of ours."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _home(place: str, folder: Path) -> Path:
    return (folder / Path(place).expanduser()).resolve().parent if place.endswith(".py") else folder.resolve()


@contextlib.contextmanager
def _importable(home: Path) -> Iterator[None]:
    """The files beside the user's own can be imported, for as long as this lasts."""
    sys.path.insert(0, str(home))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code may have removed it
            sys.path.remove(str(home))


def _import_file(place: str, folder: Path, field: str) -> ModuleType:
    path = (folder / Path(place).expanduser()).resolve()
    if not path.is_file():
        raise JobError(field, "must name a Python file that exists", got=place, hint="Paths start at the folder of the job file")
    name = f"hasten_user_{path.stem}_{digest_bytes(str(path).encode())[:10]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        raise _refused(error, place, field) from error
    return module


def _import_module(place: str, field: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise _refused(error, place, field) from error
        raise JobError(field, "must name a module that can be imported", got=place, hint=f"Write {_FORMS}") from None
    except BaseException as error:
        raise _refused(error, place, field) from error


def _refused(error: BaseException, place: str, field: str) -> BaseException:
    """What to raise for `error`: a JobError, or itself where it is not the file's fault (Ctrl-C) or is ours already."""
    if isinstance(error, KeyboardInterrupt | HastenError):
        return error
    return JobError(field, f"must import, but {place} raised {one_line(error)}")
