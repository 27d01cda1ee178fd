"""The real Triton of nvidia-pytriton, its Python backend with dynamic batching. Arguments: see _net."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from _net import BATCH, arguments

CONFIG = """
name: "NAME"
backend: "python"
max_batch_size: BATCH
input [{ name: "pixels" data_type: TYPE_FP32 dims: [3, 64, 64] }]
output [{ name: "scores" data_type: TYPE_FP32 dims: [10] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { POLICY }
parameters: { key: "path" value: { string_value: "PATH" } }
"""

if __name__ == "__main__":
    asked = arguments(sys.argv[1:])
    name, port, policy = Path(asked.model).stem, asked.port, "max_queue_delay_microseconds: 0"
    if asked.seconds is not None:
        limit = f"timeout_action: REJECT default_timeout_microseconds: {round(1e6 * asked.seconds)}"
        limit = limit if asked.places is None else f"max_queue_size: {asked.places}"
        # With a policy the scheduler sleeps now and then for half a second while requests wait; less often with a delay and a time limit.
        policy = f"max_queue_delay_microseconds: 1000 default_queue_policy {{ {limit} }}"
    words = {"NAME": name, "BATCH": str(BATCH), "POLICY": policy, "PATH": asked.model}
    config = re.sub("|".join(words), lambda found: words[found[0]], CONFIG)
    packages = Path(sysconfig.get_paths()["purelib"])
    triton = packages / "pytriton" / "tritonserver"
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(triton / "backends", folder / "backends")
    stub = triton / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}" / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python" / stub.name)
    version = folder / "models" / name / "1"
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("triton_model.py"), version / "model.py")
    (version.parent / "config.pbtxt").write_text(config)
    libraries = [packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
    os.environ["PYTHONHOME"] = sys.base_prefix
    os.environ["BENCH_PATHS"] = f"{packages}:{Path(__file__).resolve().parent}"
    flags = {
        "model-repository": folder / "models",
        "backend-directory": folder / "backends",
        "http-address": "127.0.0.1",
        "http-port": port,
        "allow-grpc": "false",
        "metrics-port": port + 2,
    }
    binary = triton / "bin" / "tritonserver"
    os.execv(str(binary), [str(binary), *(f"--{name}={value}" for name, value in flags.items())])
