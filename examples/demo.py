"""The whole story in a few minutes: optimise the digits network, see the report, serve it, send it one picture.

make demo
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("out") / "digits"
PICTURE = Path("out") / "digit.png"


def main() -> int:
    """Exits with the code of the first step that fails."""
    hasten = [sys.executable, "-m", "hasten"]
    step([*hasten, "optimize", "examples/digits/job.toml", "--out", str(OUT), "--budget", "3m"])
    report = ROOT / OUT / "report.html"
    if report.exists():
        print(f"\nThe report: {report}")
    step([sys.executable, "examples/digits/digits.py", str(PICTURE)])
    with server([*hasten, "serve", str(OUT), "--port", "0"]) as url:
        request = urllib.request.Request(f"{url}/v1/predict", data=(ROOT / PICTURE).read_bytes(), headers={"Content-Type": "image/png"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
    print(f"The server says: {answer['label']} (probability {answer['score']:.3f})")
    return 0


def step(command: list[str]) -> None:
    """Run one command, shown first as a person would type it."""
    shown = ["hasten", *command[3:]] if command[1:3] == ["-m", "hasten"] else ["python", *command[1:]]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


@contextmanager
def server(command: list[str]) -> Iterator[str]:
    """The URL of a server that runs meanwhile and is stopped as Ctrl-C would stop it."""
    print(f"\n$ {shlex.join(['hasten', *command[3:]])}", flush=True)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()  # the server says where it listens once it does, or ends without a word
        if not first:
            raise subprocess.CalledProcessError(process.wait(), command)
        print(first, end="")
        yield first.split()[0]
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)
