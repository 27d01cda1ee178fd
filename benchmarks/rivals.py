"""The peers that hasten is raced against: what each is asked, its environment, and what it made, which is made once.

OUT/envs/ENVIRONMENT        a virtual environment, from benchmarks/peers/ENVIRONMENT.txt
OUT/MODEL/inputs            what every peer is given (see benchmarks/peers/_peer.py)
OUT/MODEL/PEER              what it made, or why it did not: result.json; its words: words.txt
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE

from hasten.core.candidate import Candidate
from hasten.core.digest import digest_json, digest_path
from hasten.core.registry import find
from hasten.core.seams import Technique
from hasten.search.workshop import Workshop
from hasten.techniques._graph import is_transformer

SCRIPTS = HERE / "peers"
PLUGINS = (SCRIPTS / "openvino_ir.py", SCRIPTS / "torch_compile.py")
"""What runs programs that are no ONNX graphs."""
SEES_OURS = "torchao"
"""The environment that adds one package to hasten's own: its programs are run with hasten's torch."""
LIMIT_SECONDS = 600.0
"""What a peer may take for one model."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One way to use one peer.

    variant: default or best; environment: a file in benchmarks/peers without its .txt, or hasten's own; times: it measures speed itself,
    and so must be run when the machine is quiet.
    """

    script: str
    variant: str
    environment: str | None = None
    times: bool = False


def _both(name: str, script: str, environment: str | None = None, *, timing: str | None = None) -> dict[str, Peer]:
    return {
        name + end: Peer(script=script, variant=variant, environment=environment, times=variant == timing)
        for variant, end in (("default", ""), ("best", "-best"))
    }


PEERS: Mapping[str, Peer] = {
    **_both("ort-static", "ort_static"),
    **_both("ort-dynamic", "ort_dynamic"),
    **_both("nncf", "nncf_quantize"),
    **_both("nncf-accuracy", "nncf_accuracy"),
    **_both("olive", "olive_run", "olive", timing="best"),
    **_both("isat", "isat_tune", "isat", timing="default"),
    **_both("inc", "inc_tuned", "inc"),
    **_both("torchao", "torchao_compile", "torchao"),
}
"""Each twice: as its documentation shows it first, and with the best settings that are known."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a peer made. folder: where; program: its file there, or None; settings: what was asked, or why nothing came."""

    folder: Path
    program: str | None
    settings: str
    runtime: str = ""
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: float = 0.0

    @property
    def content(self) -> str:
        """Digest of the program's files."""
        stem = Path(self.program or "").stem
        return digest_json([digest_path(file) for file in sorted(self.folder.glob(f"{stem}.*"))])


# What the peers are given ---------------------------------------------------------------------------------------------


def write_inputs(shop: Workshop, source: str, *, limit: float, facts: frozenset[str], folder: Path) -> Candidate:
    """INPUTS of a model; nothing is written where the same was written before. Returns the exported graph."""
    original = shop.workload.original
    graph = shop.apply(find(Technique)["export-onnx"](), original)
    request = {
        "source": source, "limit": limit, "inputs": [spec.name for spec in original.signature.inputs], "output": shop.workload.output,
        "threads": shop.target.threads, "transformer": is_transformer(shop.count(graph)["operators"]),
        "saturates": "u8s8-saturates" in facts,
    }  # fmt: skip
    stamp = digest_json([request, original.id, shop.workload.splits.digest])
    if (folder / "stamp").exists() and (folder / "stamp").read_text() == stamp:
        return graph
    shutil.rmtree(folder, ignore_errors=True)
    for split in ("calibrate", "select"):
        (folder / split).mkdir(parents=True)
        for name, path in shop.tensors(split).items():
            os.link(path, folder / split / f"{name}.npy")
    np.save(folder / "labels.npy", np.asarray(shop.workload.splits.select.labels))
    for source_file in graph.path.parent.glob(f"{graph.path.name}*"):
        shutil.copyfile(source_file, folder / source_file.name.replace(graph.path.name, "model.onnx"))
    shutil.copyfile(original.path, folder / "model.pt2")
    (folder / "request.json").write_text(json.dumps(request, indent=1) + "\n")
    (folder / "stamp").write_text(stamp)
    return graph


# Their environments ---------------------------------------------------------------------------------------------------


def python_of(environment: str | None, root: Path) -> Path:
    """The interpreter of an environment, which is made where it is not there. Raises CalledProcessError with pip's words."""
    if environment is None:
        return Path(sys.executable)
    folder, wanted = root / "envs" / environment, (SCRIPTS / f"{environment}.txt").read_text()
    python, done = folder / "bin" / "python", folder / "installed.txt"
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"  environment {environment} is made", flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    alone = ["--no-deps"] if environment == SEES_OURS else []
    install = [python, "-m", "pip", "install", "--quiet", *alone, "-r", SCRIPTS / f"{environment}.txt"]
    subprocess.run(install, check=True, capture_output=True)
    if environment == SEES_OURS:
        (packages_of(environment, root) / "hasten.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    done.write_text(wanted)
    return python


def packages_of(environment: str, root: Path) -> Path:
    """Its site-packages folder."""
    return next((root / "envs" / environment / "lib").glob("python*/site-packages"))


# What they make -------------------------------------------------------------------------------------------------------


def make(name: str, inputs: Path, folder: Path, root: Path, *, retry: bool = False) -> Made:
    """What the peer makes of INPUTS, from `folder` where it was made before. retry: try again what failed. Raises nothing of the peer's."""
    peer = PEERS[name]
    needs = [SCRIPTS / "_peer.py", SCRIPTS / f"{peer.script}.py", *([SCRIPTS / f"{peer.environment}.txt"] if peer.environment else [])]
    key = digest_json([peer.variant, (inputs / "stamp").read_text(), *(digest_path(path) for path in needs)])
    done = folder / "key"
    if not (done.exists() and done.read_text() == key) or (retry and "problem" in _result(folder)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"  {name} is made", flush=True)
        if (problem := _run(peer, inputs, folder, root)) is not None:
            (folder / "result.json").write_text(json.dumps({"problem": problem}) + "\n")
        done.write_text(key)
    result = _result(folder)
    if "problem" in result:
        return Made(folder=folder, program=None, settings=result["problem"], options={}, versions={})
    return Made(folder=folder, **result)


def _run(peer: Peer, inputs: Path, folder: Path, root: Path) -> str | None:
    """Run the script. Returns None, or one sentence why nothing came of it."""
    try:
        python = python_of(peer.environment, root)
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        return f"its environment cannot be made: {words[-1]}"
    command = [python, SCRIPTS / f"{peer.script}.py", inputs, folder, peer.variant]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with (folder / "words.txt").open("wb") as words:
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": words, "stderr": words}
        process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)
        try:
            code = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            return f"it took longer than {LIMIT_SECONDS:.0f} s and was ended"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 0:
        return None
    last = (folder / "words.txt").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return f"it ended with code {code}: {last[-1][:300]}"


def _result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result
