"""What is done inside child processes: build, compile, load, run, time. Each function's first argument is the child's state."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..core.candidate import Candidate
from ..core.errors import ModelError
from ..core.seams import Arrays, Context, Program, Runtime, Target, Technique
from ..core.signature import Signature, TensorSpec
from .energy import Meter
from .flops import count
from .worker import State, resident_bytes

LEAD_IN_SECONDS = 0.005
_SAMPLE_SECONDS = 0.005


def apply_technique(state: State, technique: Technique, candidate: Candidate, context: Context) -> dict[str, Any]:
    """`technique.apply`: the new candidate as JSON, with its path relative to the context's folder."""
    result = technique.apply(candidate, context)
    return {**result.to_json(), "path": result.path.relative_to(context.folder).as_posix()}


def compile_program(state: State, runtime: Runtime, candidate: Candidate, target: Target, folder: Path) -> int:
    """`runtime.compile` into `folder`. Returns the bytes that it wrote."""
    runtime.compile(candidate, target, folder)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def load_program(state: State, runtime: Runtime, folder: Path, target: Target) -> float:
    """Load a program into the child. Returns the seconds that it took."""
    began = time.perf_counter()
    state["program"] = runtime.load(folder, target)
    return time.perf_counter() - began


def hold_inputs(state: State, tensors: Mapping[str, Path], batch_size: int) -> None:
    """Keep the first `batch_size` samples as the input of the timed runs (repeated where there are fewer)."""
    state["inputs"] = {name: _rows(np.load(path, mmap_mode="r"), batch_size) for name, path in tensors.items()}


def warm_up(state: State, max_seconds: float) -> dict[str, float]:
    """Run until it stops getting faster: the fastest run of a window of runs no longer improves by 2 %.

    Windows hold at least 5 runs and 20 ms; three windows in a row without a better one end it, or `max_seconds`.
    """
    program, inputs = _program(state), state["inputs"]
    began, best, idle, runs = time.perf_counter(), float("inf"), 0, 0
    while idle < 3 and time.perf_counter() - began < max_seconds:
        window: list[float] = []
        opened = time.perf_counter()
        while len(window) < 5 or time.perf_counter() - opened < 0.02:
            started = time.perf_counter()
            program.run(inputs)
            window.append(time.perf_counter() - started)
            if time.perf_counter() - began > max_seconds:
                break
        runs += len(window)
        typical = float(np.median(window))
        idle = idle + 1 if typical > 0.98 * best else 0
        best = min(best, typical)
    return {"runs": runs, "seconds": time.perf_counter() - began, "best": best}


def time_slice(
    state: State, seconds: float, min_runs: int, meter: Meter | None = None
) -> tuple[list[float], list[float], float | None]:  # fmt: skip
    """Runs for about `seconds`, at least `min_runs`: wall seconds of each; CPU seconds of each as the mean of the slice
    (the kernel books the time of other threads at its ticks, too coarse for one run); and joules of each, as the mean by `meter`.

    Runs of the first `LEAD_IN_SECONDS`, at least one, are not counted: caches hold another process's data, and threads of the one
    before (torch's, for some milliseconds) may still spin.
    """
    program, inputs = _program(state), state["inputs"]
    wall: list[float] = []
    gc.disable()
    _run_for(program, inputs, LEAD_IN_SECONDS)
    energy_began = meter.read() if meter else ()
    cpu_began, began = time.process_time(), time.perf_counter()
    while len(wall) < min_runs or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        program.run(inputs)
        wall.append(time.perf_counter() - started)
    cpu = time.process_time() - cpu_began
    joules = meter.spent(energy_began, meter.read()) / len(wall) if meter else None
    gc.enable()
    return wall, [cpu / len(wall)] * len(wall), joules


def evaluate(state: State, tensors: Mapping[str, Path], start: int, stop: int, batch_size: int, folder: Path) -> float:
    """Run samples `start` to `stop` in batches; outputs go to `folder`/<number>.npy in the program's order, and names.txt.

    The last batch is filled up by repeating its last sample, so that a program with a fixed batch can run it. Returns
    the seconds that it took.
    """
    program = _program(state)
    arrays = {name: np.load(path, mmap_mode="r") for name, path in tensors.items()}
    began = time.perf_counter()
    parts: dict[str, list[np.ndarray]] = {}
    for at in range(start, stop, batch_size):
        count = min(batch_size, stop - at)
        outputs = program.run({name: _rows(array[at : at + count], batch_size) for name, array in arrays.items()})
        for name, output in outputs.items():
            parts.setdefault(name, []).append(np.array(output[:count]))
    seconds = time.perf_counter() - began
    for number, chunks in enumerate(parts.values()):
        np.save(folder / f"{number}.npy", np.concatenate(chunks))
    (folder / "names.txt").write_text("\n".join(parts))
    return seconds


def operator_times(
    state: State, runtime: Runtime, folder: Path, target: Target, tensors: Mapping[str, Path], num_calls: int
) -> list[dict[str, Any]] | None:
    """`runtime.operator_times` at the target's batch size, as JSON; None where the runtime does not tell."""
    hold_inputs(state, tensors, target.batch_size)
    operators = runtime.operator_times(folder, target, state["inputs"], num_calls)
    return None if operators is None else [asdict(operator) for operator in operators]


def peak_memory(
    state: State, runtime: Runtime, folder: Path, target: Target, tensors: Mapping[str, Path], batch_size: int
) -> tuple[int, int]:
    """Peak bytes of this process before and after it loads and runs a program: call it in a fresh child."""
    hold_inputs(state, tensors, batch_size)
    before = _peak_resident_bytes()
    load_program(state, runtime, folder, target)
    for _ in range(10):
        _program(state).run(state["inputs"])
    return before, _peak_resident_bytes()


def memory_curve(
    state: State, runtime: Runtime, folder: Path, target: Target, tensors: Mapping[str, Path], batch_size: int, seconds: float
) -> dict[str, Any]:
    """Resident bytes over time while a program is loaded and then run for about `seconds`: call it in a fresh child.

    `samples` [[seconds since loading began, bytes], ...], `loaded_seconds` (when the first run began), `before_bytes`, `peak_bytes`.
    """
    hold_inputs(state, tensors, batch_size)
    before, began, done = resident_bytes(os.getpid()), time.perf_counter(), threading.Event()
    samples: list[tuple[float, int]] = []

    def sample() -> None:
        while not done.is_set():
            samples.append((time.perf_counter() - began, resident_bytes(os.getpid())))
            done.wait(_SAMPLE_SECONDS)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        load_program(state, runtime, folder, target)
        loaded = time.perf_counter() - began
        _run_for(_program(state), state["inputs"], seconds)
    finally:
        done.set()
        sampler.join()
    return {"samples": samples, "loaded_seconds": loaded, "before_bytes": before, "peak_bytes": _peak_resident_bytes()}


def onnx_signature(state: State, path: Path) -> Signature:
    """The inputs and outputs of an ONNX file, as ONNX Runtime tells them. Raises ModelError."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (pybind raises classes of its own, without a common base)
        text = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(f"model {path.name}", f"must be an ONNX file that ONNX Runtime loads ({text})") from None

    def specs(values: Any) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=v.name, dtype=_numpy_dtype(v.type), shape=tuple(n if isinstance(n, int) else None for n in v.shape))
            for v in values
        )

    return Signature(inputs=specs(session.get_inputs()), outputs=specs(session.get_outputs()))


def _numpy_dtype(name: str) -> str:
    inner = name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)


def count_graph(state: State, path: Path, batch_size: int) -> dict[str, Any]:
    """flops.count as JSON."""
    return asdict(count(path, batch_size))


def _run_for(program: Program, inputs: Arrays, seconds: float) -> None:
    began = time.perf_counter()
    program.run(inputs)
    while time.perf_counter() - began < seconds:
        program.run(inputs)


def _program(state: State) -> Program:
    program: Program = state["program"]
    return program


def _rows(array: np.ndarray, count: int) -> np.ndarray:
    have = np.asarray(array[:count])
    if len(have) == count:
        return np.ascontiguousarray(have)
    return np.concatenate([have, np.repeat(have[-1:], count - len(have), axis=0)])


def _peak_resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
