"""A profile as a trace in Chrome's format, which chrome://tracing and Perfetto open: one process a runtime, one call each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def chrome_trace(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The document of `hasten profile` as a trace. Times are in microseconds, as the format wants."""
    events: list[dict[str, Any]] = []
    for number, runtime in enumerate(profile["runtimes"], 1):
        for kind, name in (("process_name", runtime["name"]), ("thread_name", "one call")):
            events.append({"ph": "M", "name": kind, "pid": number, "tid": 0, "args": {"name": name}})
        events += _operators(runtime["operators"], number)
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"model": profile["name"], "machine": profile["machine"]["text"]}}


def _operators(operators: list[dict[str, Any]], process: int) -> Iterator[dict[str, Any]]:
    """Medians of starts and durations do not fit each other to the last microsecond; one thread cannot do two things at once."""
    free = 0.0
    for operator in sorted(operators, key=lambda o: o["start_seconds"]):
        begin = max(free, 1e6 * operator["start_seconds"])
        free = begin + 1e6 * operator["seconds"]
        told = {key: operator[key] for key in ("share", "flops", "bytes", "reach", "bound", "nodes")}
        yield {
            "ph": "X", "name": operator["name"], "cat": operator["kind"], "pid": process, "tid": 0, "ts": begin, "dur": free - begin,
            "args": told,
        }  # fmt: skip
