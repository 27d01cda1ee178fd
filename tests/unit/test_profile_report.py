"""A profile as a page, as tables and as a trace."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hasten.report.profile_story import dearest, kinds, summary
from hasten.report.trace import chrome_trace

INTERVAL = {"value": 4e-4, "low": 3.9e-4, "high": 4.1e-4, "level": 0.95, "n": 12}


def operator(name: str, kind: str, start: float, seconds: float, share: float, **known: Any) -> dict[str, Any]:
    unknown = dict.fromkeys(("flops", "bytes", "intensity", "bound", "reach"))
    return {
        "name": name,
        "kind": kind,
        "start_seconds": start,
        "seconds": seconds,
        "share": share,
        "nodes": [name],
        "int8": False,
        **unknown,
        **known,
    }


CONV = {"flops": 2_000_000, "bytes": 4_000, "intensity": 500.0, "bound": "compute", "reach": 0.5}
RUNTIME = {
    "name": "onnxruntime",
    "sentence": "75 % of the time is in <2> convolutions.",
    "latency": INTERVAL,
    "num_runs": 40,
    "percentiles_seconds": {"p50": 4e-4, "p95": None, "p99": None},
    "operators": [
        operator("a", "Conv", 0.0, 1e-4, 0.25, **CONV),
        operator("r", "Reorder", 9e-5, 1e-4, 0.25),
        operator("b", "Conv", 2e-4, 2e-4, 0.5, **CONV),
    ],
    "memory": {
        "samples": [[0.0, 10_000_000], [0.1, 30_000_000]],
        "loaded_seconds": 0.05,
        "before_bytes": 10_000_000,
        "peak_bytes": 31_000_000,
    },
    "threads": [{"threads": k, "latency": INTERVAL} for k in (1, 2)],
    "batches": [
        {"batch_size": k, "latency": INTERVAL, "throughput": {"value": k / 4e-4, "low": k / 4.1e-4, "high": k / 3.9e-4}} for k in (1, 4)
    ],
}
PROFILE: dict[str, Any] = {
    "name": "net",
    "sentence": "onnxruntime: 75 % of the time is in <2> convolutions.",
    "threads": 2,
    "batch_size": 1,
    "machine": {"text": "a machine"},
    "ceilings": {
        "bytes_per_second": 2e10,
        "float32_per_second": 1e11,
        "int8_per_second": None,
        "int8_ratio": {"onnxruntime": {"Conv": 0.5}},
    },
    "runtimes": [RUNTIME],
    "problems": {"other": "not installed"},
    "sentences": ["Quiet."],
}


def test_kinds_are_summed_and_the_dearest_comes_first() -> None:
    conv, reorder = kinds(RUNTIME["operators"])
    assert (conv.name, conv.count, conv.time, conv.share, conv.flops, conv.size, conv.reach, conv.bound) == (
        "Conv",
        "2",
        "300 µs",
        "75.0 %",
        "4 M",
        "8 kB",
        "50 %",
        "compute",
    )
    assert (reorder.flops, reorder.reach, reorder.bound) == ("—", "—", "")
    assert [part.name for part in dearest(RUNTIME["operators"], 2)] == ["b (Conv)", "a (Conv)"]


def test_a_percentile_that_the_runs_do_not_own_is_not_shown() -> None:
    assert summary(RUNTIME).p95 == "—"
    assert summary({**RUNTIME, "percentiles_seconds": {"p95": 5e-4}}).p95 == "500 µs"
    assert summary(RUNTIME).throughput.endswith("at 4")
    assert summary({**RUNTIME, "batches": []}).throughput == "—"


def test_the_trace_has_one_process_a_runtime_and_operators_that_do_not_overlap() -> None:
    trace = json.loads(json.dumps(chrome_trace({**PROFILE, "runtimes": [RUNTIME, {**RUNTIME, "name": "openvino"}]})))
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert sorted(names.values()) == ["onnxruntime", "openvino"]
    for process in names:
        events = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["pid"] == process]
        assert [e["name"] for e in events] == ["a", "r", "b"]
        assert [(e["ts"], e["dur"]) for e in events] == [pytest.approx(pair) for pair in ((0, 100), (100, 100), (200, 200))]
        assert events[0]["args"]["flops"] == 2_000_000


def test_the_page_is_whole_escaped_and_loads_nothing() -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    from hasten.report.profile_html import render_profile

    page = render_profile(PROFILE)
    assert "&lt;2&gt; convolutions" in page
    assert "<2>" not in page
    assert page.count("<svg") == 10  # five drawings, each wide and narrow
    assert "http://" not in page
    assert "https://" not in page
    assert "Not profiled: other: not installed" in page
    fixed = render_profile({**PROFILE, "runtimes": [{**RUNTIME, "batches": [], "operators": []}]})
    assert "batch is fixed" in fixed
    assert fixed.count("<svg") == 4
