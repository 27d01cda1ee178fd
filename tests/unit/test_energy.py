"""Energy is measured where the machine counts it, else estimated where the user states the watts, else unknown; and it says which."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import worker_tasks

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.errors import NotPossibleHere
from hasten.core.job import Job
from hasten.core.measurement import Interval, Measurement
from hasten.core.registry import get
from hasten.core.seams import Runtime, Target
from hasten.core.signature import Signature, TensorSpec
from hasten.core.trial import Trial
from hasten.measure.energy import POWERCAP, Rapl, estimated, find_source
from hasten.measure.latency import Entrant, Plan, Race, race
from hasten.report import words
from hasten.search.certify import Finisher
from hasten.search.evidence import energy
from hasten.search.opening import energy_source

INTEL = {
    "intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "uncore", "intel-rapl:0:2": "dram",
    "intel-rapl:1": "package-1", "intel-rapl:1:0": "dram", "intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0",
}  # fmt: skip
AMD = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core"}
RANGE = 262_143_328_850  # microjoules, of a real Xeon


def powercap(root: Path, zones: dict[str, str]) -> Path:
    """A folder like the kernel's /sys/class/powercap."""
    (root / "intel-rapl").mkdir(parents=True)
    for folder, name in zones.items():
        (root / folder).mkdir()
        (root / folder / "name").write_text(f"{name}\n")
        (root / folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
        (root / folder / "energy_uj").write_text("1000000\n")
    return root


@pytest.mark.parametrize(
    ("zones", "counted"),
    [(INTEL, ["package-0", "package-0 dram", "package-1", "package-1 dram"]), (AMD, ["package-0"])],
    ids=["intel", "amd"],
)
def test_each_package_and_its_memory_is_counted_once(tmp_path: Path, zones: dict[str, str], counted: list[str]) -> None:
    source = find_source("cpu", None, powercap=powercap(tmp_path, zones))
    assert source.label == "measured"
    assert isinstance(source.meter, Rapl)
    assert [zone.name for zone in source.meter.zones] == counted
    assert source.meter.zones[0].path == tmp_path / "intel-rapl:0" / "energy_uj"
    assert source.meter.read() == (1.0,) * len(counted)


def test_a_counter_that_starts_again_from_0_has_not_lost_energy(tmp_path: Path) -> None:
    meter = find_source("cpu", None, powercap=powercap(tmp_path, INTEL)).meter
    assert meter is not None
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text(str(RANGE - 1_000_000))
    before = meter.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("2000000")
    (tmp_path / "intel-rapl:1:0" / "energy_uj").write_text("1500000")
    assert meter.spent(before, meter.read()) == pytest.approx(3.5)


def test_counters_that_cannot_be_read_are_no_zero(tmp_path: Path) -> None:
    root = powercap(tmp_path, INTEL)
    (root / "intel-rapl:1" / "energy_uj").unlink()
    source = find_source("cpu", None, powercap=root)
    assert (source.label, source.meter) == ("unknown", None)
    assert source.how == f"the RAPL counter {root}/intel-rapl:1/energy_uj cannot be read (No such file or directory)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_counters_for_root_alone_are_no_zero(tmp_path: Path) -> None:
    root = powercap(tmp_path, AMD)
    (root / "intel-rapl:0" / "energy_uj").chmod(0)
    assert "(Permission denied)" in find_source("cpu", None, powercap=root).how


def test_without_counters_it_is_an_estimate_only_where_the_watts_are_stated(tmp_path: Path) -> None:
    stated, silent = (find_source("cpu", watts, powercap=tmp_path) for watts in (7.5, None))
    assert (stated.label, silent.label) == ("estimated", "unknown")
    assert stated.how == f"CPU seconds of a call x 7.5 W a core (target.watts_per_core), since there are no RAPL counters in {tmp_path}"
    assert find_source("cpu", 7.5, powercap=powercap(tmp_path / "rapl", AMD)).label == "measured"


def test_a_gpu_is_never_estimated_from_cpu_time(tmp_path: Path) -> None:
    source = find_source("cuda:7", 7.5, powercap=powercap(tmp_path, INTEL))
    assert source.label == "unknown"
    assert "pynvml" in source.how or "GPU 7" in source.how


def latency(cpu_seconds: list[list[float]], **method: Any) -> Measurement:
    """Rounds of calls with these CPU times."""
    flat = tuple(c for r in cpu_seconds for c in r)
    groups = tuple(g for g, r in enumerate(cpu_seconds) for _ in r)
    blocks = {"block_of_round": [g // 4 for g in range(len(cpu_seconds))]}
    return Measurement(metric="latency", unit="s", samples=flat, groups=groups, cpu_seconds=flat, method={**blocks, **method})


def test_an_estimate_is_cpu_time_times_watts_round_by_round(tmp_path: Path) -> None:
    known = estimated(latency([[0.001, 0.003], [0.004]], batch_size=2), find_source("cpu", 10.0, powercap=tmp_path))
    assert (known.metric, known.unit) == ("energy", "J")
    assert known.samples == pytest.approx((0.02, 0.04))
    assert (known.method["label"], known.method["batch_size"]) == ("estimated", 2)
    assert "10 W a core" in known.method["how"]


def test_a_race_divides_what_a_slice_took_by_its_calls(tmp_path: Path) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(None, 3))
    candidate = Candidate(
        floor=Floor.GRAPH, path=tmp_path, lineage=(Step(name="toy"),), facts=frozenset({"null-allowed"}),
        signature=Signature(inputs=(spec,), outputs=(spec,)),
    )  # fmt: skip
    runtime, target = get(Runtime, "null")(), Target(threads=1)
    runtime.compile(candidate, target, tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((4, 3), np.float32))
    (tmp_path / "count").write_text("0")
    meter = worker_tasks.OneJouleARead(path=tmp_path / "count")
    entrants = [
        Entrant(key=key, runtime=runtime, folder=tmp_path, target=target, tensors={"x": tmp_path / "x.npy"}, batch_size=2) for key in "ab"
    ]
    plan = Plan(blocks=2, rounds=3, slice_seconds=0.002, warm_up_seconds=0.01)
    result = Race.from_json(race(entrants, plan, where={}, meter=meter).to_json())
    for key in "ab":
        of_call, timed = result.energy[key], result.latency[key]
        calls = [timed.groups.count(number) for number in range(6)]
        assert [spent * count for spent, count in zip(of_call.samples, calls, strict=True)] == pytest.approx([1.0] * 6)
        assert (of_call.method["label"], of_call.method["how"], of_call.method["blocks"]) == ("measured", "one joule a slice", 2)
        assert result.of(key) == (timed, of_call)
    assert race(entrants, Plan(rounds=1, warm_up_seconds=0.01), where={}).energy == {}


def wish(**sections: Any) -> Job:
    return Job.make({"model": {"source": "m.onnx"}, "data": {"source": "d.npz"}, **sections})


@pytest.mark.skipif(POWERCAP.exists(), reason="this machine may count energy")
def test_a_wish_that_needs_energy_is_refused_where_it_is_unknown() -> None:
    for field, job in (("search.objective", wish(search={"objective": "energy"})), ("limits.energy_mj", wish(limits={"energy_mj": 3}))):
        with pytest.raises(NotPossibleHere) as caught:
            energy_source(job, Target(threads=1))
        assert str(caught.value) == (
            f"{field}: needs the energy of a call, which is unknown here: there are no RAPL counters in /sys/class/powercap. "
            "For an estimate set target.watts_per_core to the watts that one busy core draws."
        )
    assert energy_source(wish(), Target(threads=1)).label == "unknown"
    asked = wish(search={"objective": "energy"}, target={"watts_per_core": 5})
    assert energy_source(asked, Target(threads=1)).label == "estimated"


def trial(folder: Path, millijoules: list[float]) -> Trial:
    """A trial that took this much a round, estimated at 1 W a core."""
    source = find_source("cpu", 1.0, powercap=folder)
    candidate = Candidate(floor=Floor.GRAPH, path=folder, signature=Signature(inputs=(), outputs=()), lineage=(Step(name="toy"),))
    known = estimated(latency([[m / 1e3] for m in millijoules], blocks=3), source)
    return Trial(candidate=candidate, runtime=get(Runtime, "null")(), measurements=(known,))


def finisher(job: Job) -> Finisher:
    nothing = cast(Any, None)  # what it does with costs needs no model
    return Finisher(nothing, nothing, nothing, limits=job.limits, search=job.search, batch_size=1)


def test_the_answer_takes_less_energy_than_the_reference_beyond_the_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(1, 0.3, 12).clip(0.5)  # slow minutes hit both alike
    reference = trial(tmp_path, list(10 * shared))
    less, same = trial(tmp_path, list(8 * shared * rng.normal(1, 0.01, 12))), trial(tmp_path, list(10 * shared * rng.normal(1, 0.01, 12)))
    judge = finisher(wish(search={"objective": "energy"}))
    noise = Interval(value=1.0, low=0.98, high=1.02)
    assert judge._too_slow(less, reference, noise) is None
    assert "takes no less energy than the reference beyond the noise: 1.0" in (judge._too_slow(same, reference, noise) or "")
    assert judge._too_slow(less.with_(measurements=()), reference, noise) == "its energy is unknown"


def test_the_limit_holds_for_the_upper_bound_and_says_whether_it_was_measured(tmp_path: Path) -> None:
    known = trial(tmp_path, [2.0, 2.2, 2.4, 2.1, 2.3, 2.2, 2.0, 2.4])
    high = known.measurements[0].interval().high * 1e3
    assert high > 2.3, "more than the median"
    assert finisher(wish(limits={"energy_mj": high + 0.01})).over_limits(known) is None
    assert finisher(wish(limits={"energy_mj": 2.3})).over_limits(known) == (
        f"energy is up to {high:.3g} mJ a call (estimated), over the 2.3 mJ allowed"
    )


def test_what_is_shown_carries_its_label(tmp_path: Path) -> None:
    shown = energy(trial(tmp_path, [2.0, 2.2, 2.4]))
    assert shown is not None
    assert (shown["label"], shown["value"]) == ("estimated", pytest.approx(0.0022))
    assert words.joules(shown).value == "2.20 mJ"
    assert words.joules({"value": 3e-6}).value == "3 µJ"
    assert words.joules(None).value == words.NONE
