"""Work that travels between machines without a common disk: what it reads comes along, what it writes comes back, its errors too."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from hasten.core.archive import tar, untar
from hasten.core.errors import DataError, WorkerError
from hasten.core.store import Record, Store
from hasten.measure.energy import POWERCAP, Rapl, Zone
from hasten.measure.errands import Station
from hasten.search.parcel import Reply, carry_out, pack


@dataclass(frozen=True)
class Order:
    source: Path
    folder: Path


def copy(station: Station, order: Order, *, times: int) -> str:
    """Reads a step's file, and writes one."""
    assert order.source.is_relative_to(station.store.root)
    (order.folder / "deep").mkdir()
    (order.folder / "deep" / "copy.txt").write_text(order.source.read_text() * times)
    return str(order.source)


def echo(station: Station, value: object) -> object:
    return value


def refuse(station: Station) -> None:
    raise DataError("data", "must be better")


def stumble(station: Station) -> None:
    raise ZeroDivisionError("oh")


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Station:
    return Station(store=Store(tmp_path / "there"), node="far")


def _step(store: Store, text: str) -> Record:
    return store.step("text", {"text": text}, lambda folder: (folder / "text.txt").write_text(text))


def test_files_come_along_and_back(here: Store, there: Station, tmp_path: Path) -> None:
    record = _step(here, "abc")
    with here.scratch() as folder:
        parcel = pack(here, copy, (Order(record.folder / "text.txt", folder),), {"times": 2})
        reply = carry_out(parcel.errand, there, lambda key: tar(here.folder(key)), parcel.needs)
        assert parcel.needs == (record.key,)
        assert reply.open(parcel.writes) == str(there.store.folder(record.key) / "text.txt")
        assert (folder / "deep" / "copy.txt").read_text() == "abcabc"
    for store in (here, there.store):
        assert [path for path in (store.root / "tmp").glob("*/*") if path.is_dir()] == []


def test_what_a_machine_has_is_not_sent_again(here: Store, there: Station) -> None:
    record, asked = _step(here, "abc"), []

    def fetch(key: str) -> bytes:
        asked.append(key)
        return tar(here.folder(key))

    for _ in range(2):
        with here.scratch() as folder:
            parcel = pack(here, copy, (Order(record.folder / "text.txt", folder),), {"times": 1})
            assert carry_out(parcel.errand, there, fetch, parcel.needs).ok
    assert asked == [record.key]
    assert _step(there.store, "abc").fresh is False, "what was sent is a finished step there too"


def test_a_failure_of_the_other_machine_does_not_stand_in_the_way(here: Store, there: Station) -> None:
    record = _step(here, "abc")
    with pytest.raises(DataError):
        there.store.step("text", {"text": "abc"}, lambda folder: refuse(there))
    with here.scratch() as folder:
        parcel = pack(here, copy, (Order(record.folder / "text.txt", folder),), {"times": 1})
        carry_out(parcel.errand, there, lambda key: tar(here.folder(key)), parcel.needs).open(folder)
        assert (folder / "deep" / "copy.txt").read_text() == "abc"


def test_errors_come_back_as_what_they_are(here: Store, there: Station) -> None:
    with pytest.raises(DataError, match="must be better"):
        carry_out(pack(here, refuse, (), {}).errand, there, lambda key: b"", ()).open(None)
    with pytest.raises(WorkerError, match="ZeroDivisionError: oh"):
        carry_out(pack(here, stumble, (), {}).errand, there, lambda key: b"", ()).open(None)


def test_only_files_of_the_store_travel(here: Store, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="not in the store"):
        pack(here, copy, (Order(tmp_path / "else.txt", tmp_path),), {"times": 1})


@pytest.mark.parametrize("room", ["checkpoints", "answers"])
def test_what_training_keeps_is_named_in_the_store_of_whoever_trains(room: str, here: Store, there: Station) -> None:
    parcel = pack(here, echo, (here.root / room / "abc.pt",), {})
    assert parcel.needs == ()
    reply = carry_out(parcel.errand, there, lambda key: b"", parcel.needs)
    assert reply.open(None) == there.store.root / room / "abc.pt"


def test_counters_of_energy_are_read_where_they_arrive(here: Store, there: Station) -> None:
    meter = Rapl(zones=(Zone(name="package-0", path=POWERCAP / "intel-rapl:0" / "energy_uj", range_joules=1.0),))
    parcel = pack(here, echo, (meter,), {})
    assert parcel.needs == ()
    assert carry_out(parcel.errand, there, lambda key: b"", ()).open(None) == meter


def test_no_file_leaves_the_folder_that_it_is_put_into(here: Store, tmp_path: Path) -> None:
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../out.txt"))
    (tmp_path / "in").mkdir()
    with pytest.raises(tarfile.OutsideDestinationError):
        Reply(ok=True, result=None, files=evil.getvalue()).open(tmp_path / "in")
    with pytest.raises(tarfile.OutsideDestinationError):
        untar(evil.getvalue(), tmp_path / "in")
    assert not (tmp_path / "out.txt").exists()
