"""Runs and a registered model, written with MLflow's client. Runs in a child process, see track.py."""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from ..bundle.layout import MANIFEST, REPORT
from ..bundle.read import Bundle
from ..core.callables import one_line
from ..core.errors import NotPossibleHere
from ..core.need import need
from .place import Place
from .runs import Run, Search

ALIAS = "answer"
"""What the newest registered version of a model can be loaded by: models:/NAME@answer."""

_SEARCH = "hasten.search"  # the tag that holds Search.id
_MODEL = "model"  # folder of the model among the artefacts
_BUNDLE = "bundle"  # folder of the bundle in the model
_MAX_NAME, _MAX_PARAM, _MAX_TAG = 250, 6000, 5000  # characters that MLflow's tables hold
_BATCH = 100  # params or tags that one request may carry


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """Where a search is found. candidates: how many runs are below `run_id`; model, version: in the registry, None without an
    answer; new: False where it had been tracked before."""

    uri: str
    experiment: str
    run_id: str
    candidates: int
    model: str | None
    version: str | None
    new: bool


def write(search: Search, bundle: Bundle | None, place: Place, experiment: str) -> Tracked:
    """Write a search, once. Half of one, left by a writer that was ended, is removed first. Raises NotPossibleHere, BundleError."""
    _set_up()
    with _translated(place):
        place.prepare()
        client = need("mlflow").MlflowClient(place.uri, place.uri)
        writer = _Writer(client, _experiment(client, experiment, place), search, bundle)
        finished = writer.finished()
        run_id = finished or writer.write()
        version = next(iter(client.search_model_versions(f"run_id = '{run_id}'")), None)
        return Tracked(
            uri=place.uri, experiment=experiment, run_id=run_id, candidates=len(search.candidates), new=finished is None,
            model=version and version.name, version=version and str(version.version),
        )  # fmt: skip


class _Writer:
    """One search into one experiment."""

    def __init__(self, client: Any, experiment_id: str, search: Search, bundle: Bundle | None) -> None:
        self._client, self._experiment_id, self._search, self._bundle = client, experiment_id, search, bundle

    def finished(self) -> str | None:
        """The run of this search, where all of it was written. Whatever else is found of it is removed."""
        runs = self._known()
        whole = next((r for r in runs if r.data.tags.get("hasten.kind") == "search" and r.info.status == "FINISHED"), None)
        if whole is not None:
            return str(whole.info.run_id)
        for run in runs:
            for version in self._client.search_model_versions(f"run_id = '{run.info.run_id}'"):
                self._client.delete_model_version(version.name, version.version)
            self._client.delete_run(run.info.run_id)
        return None

    def write(self) -> str:
        """The search's run, finished last: what is finished is whole."""
        search, files = self._search, self._files()
        parent = self._run(search.run, started=search.started)
        for candidate in search.candidates:
            run_id = self._run(candidate, started=search.ended, parent=parent)  # when it was tried is not known
            self._client.set_terminated(run_id, "FAILED" if candidate.failed else "FINISHED", end_time=search.ended)
        if self._bundle is not None:
            self._log_model(parent, files)
            self._register(parent, self._bundle.name)
        self._client.set_terminated(parent, "FINISHED", end_time=search.ended)
        return parent

    def _known(self) -> list[Any]:
        found, token = [], None
        while True:
            page = self._client.search_runs([self._experiment_id], f"tags.`{_SEARCH}` = '{self._search.id}'", page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _run(self, run: Run, *, started: int, parent: str | None = None) -> str:
        entities, tags = need("mlflow.entities"), {_SEARCH: self._search.id, **run.tags}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        first = {key: _cut(value, _MAX_TAG) for key, value in tags.items()}
        created = self._client.create_run(self._experiment_id, start_time=started, tags=first, run_name=_cut(run.name, _MAX_NAME))
        run_id = str(created.info.run_id)
        metrics = [entities.Metric(key, value, self._search.ended, 0) for key, value in run.metrics.items()]
        self._client.log_batch(run_id, metrics=metrics)
        for part in _parts(run.params):
            self._client.log_batch(run_id, params=[entities.Param(_cut(k, _MAX_NAME), _cut(v, _MAX_PARAM)) for k, v in part.items()])
        for name, text in run.texts.items():
            self._client.log_text(run_id, text, name)
        return run_id

    def _files(self) -> dict[str, Path]:
        """Every file of the bundle, checked before anything is written."""
        if self._bundle is None:
            return {}
        return {MANIFEST: self._bundle.path / MANIFEST, **{name: self._bundle.file(name) for name in self._bundle.manifest.files}}

    def _log_model(self, run_id: str, files: Mapping[str, Path]) -> None:
        """The bundle among the run's artefacts, as MLflow wants a model; the report also where a person sees it first."""
        for name, path in files.items():
            self._client.log_artifact(run_id, path, PurePosixPath(_MODEL, _BUNDLE, name).parent.as_posix())
        if REPORT in files:
            self._client.log_artifact(run_id, files[REPORT])
        self._describe(run_id)

    def _register(self, run_id: str, name: str) -> None:
        """A version of the model `name`, which the alias names from now on."""
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{_MODEL}"
        tags = {**self._search.answer, _SEARCH: self._search.id}
        note = self._search.run.tags.get("mlflow.note.content")
        version = self._client.create_model_version(name, source, run_id=run_id, tags=tags, description=note)
        self._client.set_registered_model_alias(name, ALIAS, version.version)

    def _describe(self, run_id: str) -> None:
        """The MLmodel file: pyfunc.py of this room loads the bundle."""
        model = need("mlflow.models.model").Model(run_id=run_id, artifact_path=_MODEL)
        model.add_flavor(
            "python_function", loader_module="hasten.tracking.pyfunc", data=_BUNDLE, python_version=platform.python_version()
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "MLmodel"
            model.save(path)
            self._client.log_artifact(run_id, path, _MODEL)


def _set_up() -> None:
    """Before MLflow's first import in this process: no telemetry, and a server that does not answer is given up in seconds."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")


def _experiment(client: Any, name: str, place: Place) -> str:
    known = client.get_experiment_by_name(name)
    if known is None:
        return str(client.create_experiment(name, artifact_location=place.artifacts))
    if known.lifecycle_stage != "active":
        raise NotPossibleHere("tracking.experiment", "was deleted in MLflow", got=name, hint="Restore it there, or name another")
    return str(known.experiment_id)


@contextlib.contextmanager
def _translated(place: Place) -> Iterator[None]:
    """Errors of MLflow, its database and its server as ours."""
    foreign = (need("mlflow.exceptions").MlflowException, need("sqlalchemy.exc").SQLAlchemyError, sqlite3.Error, OSError)
    try:
        yield
    except foreign as error:
        reason = one_line(error).replace(place.uri, "it")
        hint = "Nothing else is lost: `hasten track BUNDLE --uri URI` does it again"
        raise NotPossibleHere("tracking.uri", f"cannot be written ({reason})", got=place.uri, hint=hint) from None


def _parts(values: Mapping[str, str]) -> Iterator[dict[str, str]]:
    items = iter(values.items())
    while part := dict(islice(items, _BATCH)):
        yield part


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
