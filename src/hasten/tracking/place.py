"""Where runs are kept: a folder, a SQLite file, or a server of MLflow."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ..core.errors import JobError

DEFAULT = "sqlite:///mlflow.db"
"""Where MLflow's own tools look when they are told nothing."""

_FIELD = "tracking.uri"
_SQLITE = "sqlite:///"
_FORMS = "must be a folder, sqlite:///FILE, or the http(s) address of an MLflow server"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where runs are kept. uri: as MLflow takes it; database: its file, None where it is a server."""

    uri: str
    database: Path | None = None

    @classmethod
    def of(cls, text: str | None, folder: Path = Path()) -> Place:
        """The place that `text` names; relative paths start at `folder`. None: MLFLOW_TRACKING_URI, else mlflow.db here.

        Raises JobError where it is none of the three forms, or holds a password: a bundle remembers its job, and ships.
        """
        text = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT if text is None else text
        if text.startswith(("http://", "https://")):
            return cls(uri=_without_password(text))
        if text.startswith(_SQLITE):
            return cls._local(folder / Path(unquote(text.removeprefix(_SQLITE))).expanduser())
        if not text or "://" in text:
            raise JobError(_FIELD, _FORMS, got=text.partition("://")[0], hint="Other databases: run `mlflow server` on them")
        return cls._local(folder / Path(text).expanduser() / "mlflow.db")

    @classmethod
    def _local(cls, database: Path) -> Place:
        database = database.absolute()
        return cls(uri=_SQLITE + quote(str(database)), database=database)

    @property
    def artifacts(self) -> str | None:
        """The URI of the folder for artefacts: beside the database. None: the server decides."""
        return None if self.database is None else (self.database.parent / "mlruns").as_uri()

    def prepare(self) -> None:
        """Make the folder of a local place and see that its database can be written. Raises OSError, sqlite3.Error.

        MLflow itself would try for a minute and a half before it says so.
        """
        if self.database is None:
            return
        self.database.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT count(*) FROM sqlite_master")
            connection.rollback()


def _without_password(text: str) -> str:
    try:
        parts = urlsplit(text)
        known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port or an IPv6 address that is none
        known = False
    if not known:
        raise JobError(_FIELD, _FORMS, got=text.rpartition("@")[2])
    if parts.username is not None or parts.password is not None:
        raise JobError(
            _FIELD, "must not hold a name or password: bundles remember their job",
            hint="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )  # fmt: skip
    return text
