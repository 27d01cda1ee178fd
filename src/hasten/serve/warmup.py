"""A model before its first request: called at the batch sizes that may be used, so that it is warm and its times are known.

What was certified is the call size of the job, and kernels may round otherwise in larger ones (OpenVINO's in 8 bits do). So each size has
to give the golden examples' outputs, as far as they may differ where requests share a call; larger calls than the last that does are not
made. Sizes between two powers of two are not tried.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..bundle.arrays import free_batch
from ..bundle.read import Bundle
from ..bundle.verify import compare_shared
from ..core.errors import NotPossibleHere
from ..core.machine import this_machine
from ..core.seams import Arrays
from ..core.units import format_seconds
from .curve import Curve

MAX_BATCH = 64
LONGEST_CALL_SECONDS = 1.0  # without an objective: nobody waits longer than this for the sake of company

_GAIN = 1.03  # a doubling of the batch that brings less than 3 % is none; after two of them larger ones are not tried
_LONG_SECONDS = 0.01  # of a call: what passes between two shorter ones matters, so that larger ones may pay all the same


def shares(bundle: Bundle) -> bool:
    """Whether requests may share a call: every tensor's first axis is samples, and a sample's result does not depend on its company."""
    signature = free_batch(bundle.signature)
    free = all(spec.shape and spec.shape[0] is None for spec in (*signature.inputs, *signature.outputs))
    return free and "batch-dependent" not in bundle.manifest.candidate["facts"]


def warm_up(
    bundle: Bundle, *, objective: float, at_once: int = 1, trusting: bool = True, clock: Callable[[], float] = time.monotonic
) -> Curve:
    """The curve of `bundle`, whose program is loaded: of its golden inputs, one call of each power of two after one that is not timed.

    Where the bundle was certified on this machine, what was measured then counts instead, as the median of many calls, unless it is
    not to be trusted. objective: seconds, or infinity; at_once: calls that the program answers at a time: each is timed among as many
    others, until the last has ended. Raises NotPossibleHere where one sample takes longer than the objective.
    """
    golden = bundle.golden

    def time_once(tensors: Arrays) -> tuple[float, Mapping[str, np.ndarray]]:
        return _time(bundle, tensors, at_once, clock)

    if not shares(bundle):
        curve = Curve({1: time_once(golden.tensors if _no_samples(bundle) else _repeated(golden.tensors, 1))[0]})
    else:
        known = certified(bundle) if trusting and at_once == 1 else {}

        def time_call(size: int) -> float | None:
            took, outputs = time_once(_repeated(golden.tensors, size))
            proved = size == 1 or compare_shared(bundle, outputs, _repeated(golden.outputs, size)).ok
            return known.get(size, took) if proved else None

        curve = measure(time_call, objective=objective)
    if curve.seconds(1) > objective:
        raise NotPossibleHere(
            "--slo", f"must be longer than one sample takes here, {format_seconds(curve.seconds(1))}", got=format_seconds(objective)
        )
    return curve


def measure(time_call: Callable[[int], float | None], *, objective: float) -> Curve:
    """The curve of what `time_call` says of 1, 2, 4, ... samples, up to where larger calls would not be used, or must not: None."""
    limit = objective / 2 if math.isfinite(objective) else LONGEST_CALL_SECONDS
    seconds: dict[int, float] = {}
    disappointments = 0
    for size in itertools.takewhile(lambda size: size <= MAX_BATCH, (2**k for k in itertools.count())):
        took = time_call(size)
        if took is None:
            break
        seconds[size] = took
        if took >= _LONG_SECONDS and size > 1:
            disappointments = disappointments + 1 if 2 * seconds[size // 2] < _GAIN * seconds[size] else 0
        if seconds[size] > limit or disappointments == 2:
            break
    return Curve(seconds)


def certified(bundle: Bundle) -> dict[int, float]:
    """Seconds of a call by samples, from the bundle's evidence; empty where that was taken on another machine or with other threads."""
    manifest = bundle.manifest
    if manifest.machine.get("id") != this_machine().id or bundle.target != manifest.to_target():
        return {}
    answer = (bundle.answer.get("answer") or {}).get("id")
    lines = [
        line for line in bundle.evidence if line["kind"] == "measurement" and line["trial"] == answer and line["metric"] == "throughput"
    ]
    return {int(line["method"]["batch_size"]): line["method"]["batch_size"] / float(np.median(line["samples"])) for line in lines}


def elements(tensors: Arrays, size: int) -> int:
    """Numbers in one of `size` samples."""
    return sum(array.size for array in tensors.values()) // size


def _time(bundle: Bundle, tensors: Arrays, at_once: int, clock: Callable[[], float]) -> tuple[float, Mapping[str, np.ndarray]]:
    """Seconds of so many calls at once, after as many that are not timed, and the outputs of one of them."""

    def call(_: int) -> Mapping[str, np.ndarray]:
        return bundle.run(tensors)

    if at_once == 1:
        call(0)
        began = clock()
        outputs = call(0)
        return clock() - began, outputs
    with ThreadPoolExecutor(at_once) as callers:
        list(callers.map(call, range(at_once)))
        began = clock()
        outputs, *_ = callers.map(call, range(at_once))
        return clock() - began, outputs


def _no_samples(bundle: Bundle) -> bool:
    return any(not spec.shape or spec.shape[0] is not None for spec in free_batch(bundle.signature).inputs)


def _repeated(arrays: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """`size` samples: the golden ones, again and again where they are fewer."""
    return {name: np.resize(array, (size, *array.shape[1:])) for name, array in arrays.items()}
