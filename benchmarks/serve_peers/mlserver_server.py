"""MLServer with adaptive batching: Open Inference Protocol as JSON. Arguments: see _net. It has no time limit."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from _net import BATCH, arguments

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    asked = arguments(sys.argv[1:])
    port = asked.port
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False}
    model = {"name": Path(asked.model).stem, "implementation": "mlserver_model.Net", "max_batch_size": BATCH, "max_batch_time": 0.001}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps({**model, "parameters": {"uri": asked.model}}))
    os.environ["PYTHONPATH"] = str(HERE)
    os.execv(str(Path(sys.executable).with_name("mlserver")), ["mlserver", "start", str(folder)])
