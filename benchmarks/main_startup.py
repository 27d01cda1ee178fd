"""What it costs to start: CPU time of `import hasten` and of `hasten --help`, each in fresh processes.

make bench-main-startup
"""

from __future__ import annotations

import resource
import subprocess
import sys

from common import figure, finish

from hasten.core.measurement import Measurement

RUNS = 15
CASES = {
    "import_hasten_cpu_seconds": (["-c", "import hasten"], 0.3),
    "help_cpu_seconds": (["-m", "hasten", "--help"], 0.5),
}


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of one Python process, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Interleaved runs, so that a slow moment hits both; the first round, which fills the disk cache, is not counted."""
    rounds = [{name: cpu_seconds(arguments) for name, (arguments, _) in CASES.items()} for _ in range(RUNS + 1)][1:]
    print(f"median of {RUNS} fresh processes each, 95 % interval")
    figures = {}
    for name, (_, goal) in CASES.items():
        interval = Measurement(metric=name, unit="s", samples=tuple(r[name] for r in rounds)).interval()
        figures[name] = figure(interval, at_most=goal, met=interval.high <= goal)
    finish("main-startup", figures)


if __name__ == "__main__":
    main()
