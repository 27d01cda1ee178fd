"""The real Triton of nvidia-pytriton, its Python backend with dynamic batching. Arguments: model, port."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

CONFIG = """
name: "tiny"
backend: "python"
max_batch_size: 16
input [{ name: "pixels" data_type: TYPE_FP32 dims: [3, 64, 64] }]
output [{ name: "scores" data_type: TYPE_FP32 dims: [10] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 0 }
parameters: { key: "path" value: { string_value: "PATH" } }
"""

if __name__ == "__main__":
    model, port = sys.argv[1], int(sys.argv[2])
    packages = Path(sysconfig.get_paths()["purelib"])
    triton = packages / "pytriton" / "tritonserver"
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(triton / "backends", folder / "backends")
    stub = triton / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}" / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python" / stub.name)
    version = folder / "models" / "tiny" / "1"
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("triton_model.py"), version / "model.py")
    (version.parent / "config.pbtxt").write_text(CONFIG.replace("PATH", model))
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
