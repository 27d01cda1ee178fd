"""What it costs to start: CPU time of `import hasten` and of `hasten --help`, each in fresh processes.

make bench-startup
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from hasten.core.machine import this_machine
from hasten.core.measurement import Measurement

RUNS = 15
CASES = {
    "import_hasten_cpu_seconds": (["-c", "import hasten"], 0.3),
    "help_cpu_seconds": (["-m", "hasten", "--help"], 0.5),
}
RESULT = Path(__file__).parent / "results" / "main-startup.json"


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of one Python process, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Interleaved runs, so that a slow moment hits both; the first round, which fills the disk cache, is not counted."""
    rounds = [{name: cpu_seconds(arguments) for name, (arguments, _) in CASES.items()} for _ in range(RUNS + 1)][1:]
    figures = {}
    for name, (_, goal) in CASES.items():
        samples = tuple(r[name] for r in rounds)
        interval = Measurement(metric=name, unit="s", samples=samples).interval()
        figures[name] = {
            "value": round(statistics.median(samples), 4), "low": round(interval.low, 4), "high": round(interval.high, 4),
            "goal": goal, "met": interval.high <= goal,
        }  # fmt: skip
        print(f"{name:28} {interval.value:.3f} s ({interval.low:.3f} to {interval.high:.3f}), goal at most {goal} s")
    print(f"median of {RUNS} fresh processes each, 95 % interval; {this_machine().text}; load {os.getloadavg()[0]:.1f}")
    document = {
        "name": "main-startup", "date": datetime.now(UTC).date().isoformat(), "machine": this_machine().text, "figures": figures,
    }  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
