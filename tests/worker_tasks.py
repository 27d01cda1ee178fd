"""What child processes of tests do or meet, for real; here, since a child must be able to import it."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from hasten.core.errors import NotPossibleHere
from hasten.measure.energy import Meter


def killed_from_outside(state: Any) -> None:
    subprocess.run(["kill", "-KILL", str(os.getpid())], check=True)
    time.sleep(60)


def segmentation_fault(state: Any) -> None:
    ctypes.string_at(0)


def memory_error(state: Any) -> None:
    bytearray(1 << 60)


def memory_error_in_a_librarys_words(state: Any) -> None:
    try:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
    except RuntimeError as error:
        raise NotPossibleHere("technique toy", f"failed on this model ({error})") from error


def grow(state: Any) -> None:
    held = []
    while True:
        held.append(b"x" * 10_000_000)
        time.sleep(0.01)  # its parent looks a few times a second


def sleep(state: Any) -> None:
    time.sleep(60)


def waits(state: Any) -> str | None:
    return os.environ.get("OMP_WAIT_POLICY")


def value_error(state: Any) -> None:
    raise ValueError("wrong")


def disk_full(state: Any) -> None:
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def disk_full_in_a_plug_ins_words(state: Any) -> None:
    try:
        disk_full(state)
    except OSError as error:
        raise NotPossibleHere("technique toy", f"failed on this model ({error})") from error


@dataclass(frozen=True, kw_only=True)
class OneJouleARead(Meter):
    """Counts one joule from each reading to the next. path: a file that holds the count, as the kernel's do."""

    least_seconds: ClassVar[float] = 0.001

    path: Path

    @property
    def text(self) -> str:
        return "one joule a slice"

    def read(self) -> tuple[float, ...]:
        count = float(self.path.read_text())
        self.path.write_text(str(count + 1))
        return (count,)

    def spent(self, before: Sequence[float], after: Sequence[float]) -> float:
        return after[0] - before[0]


def prune_digits(state: Any, folder: Path, die_after_saves: int | None, bfloat16: bool) -> str:
    """The name of the weights that two rounds of pruning give; saves after every step, and dies after so many saves."""
    options = {"share": 0.4, "rounds": 2, "epochs": 4, "round_to": 2}
    return _train_digits("structured-pruning", options, folder, die_after_saves, bfloat16=bfloat16)


def search_digits(state: Any, folder: Path, die_after_saves: int | None) -> str:
    """The same of an architecture search with two rungs."""
    options = {"speed": 2.0, "trials": 6, "samples": 32, "epochs": 1, "widest": 32}
    return _train_digits("architecture-search", options, folder, die_after_saves)


def _train_digits(name: str, options: Mapping[str, Any], folder: Path, die_after_saves: int | None, *, bfloat16: bool = False) -> str:
    from hasten.core.digest import digest_array, digest_json
    from hasten.core.registry import get
    from hasten.core.seams import Context, Technique, Training
    from hasten.testing._models import reference_model
    from hasten.train import loop, student
    from hasten.train.lift import read_module

    real, saves = loop.save, 0

    def save(content: Any, path: Path) -> None:
        nonlocal saves
        real(content, path)
        saves += 1
        if saves == die_after_saves:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.save = student.save = save
    loop.time = SimpleNamespace(monotonic=itertools.count(step=1000).__next__)  # type: ignore[attr-defined]  # every step is late to save
    model = reference_model("digits")
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    training = Training(
        inputs=model.calibration, labels=None, original=model.module, output=0, classifier=True, checkpoint=folder / "c.pt", batch_size=8,
        answers=folder / "answers", bfloat16=bfloat16,
    )  # fmt: skip
    technique = get(Technique, name)(**options)
    after = technique.apply(model.module, Context(folder=out, calibration=model.calibration, training=training))
    weights = read_module(after.path).state_dict()
    return digest_json({name: digest_array(value.numpy()) for name, value in weights.items()})
