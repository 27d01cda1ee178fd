"""The one gate to optional packages. Its error carries the exact install line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from .errors import MissingExtra

EXTRA_OF = {
    "torch": "train",
    "torch_pruning": "train",
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "onnxslim": "train",
    "sklearn": "train",
    "optuna": "train",
    "openvino": "openvino",
    "nncf": "openvino",
    "pyarrow": "data",
    "matplotlib": "report",
    "jinja2": "report",
    "ray": "ray",
    "pynvml": "energy",
    "mlflow": "mlflow",
    "sqlalchemy": "mlflow",
    "alembic": "mlflow",
    "grpc": "serve",
    "prometheus_client": "serve",
    "python_multipart": "serve",
    "httptools": "serve",
    "uvloop": "serve",
    "orjson": "serve",
    "pybase64": "serve",
    "simdjson": "serve",
    "httpx2": "client",
    "yaml": "deploy",
    "opentelemetry": "otel",
}
"""Import name -> the extra of pyproject.toml that brings it. A test holds the two together."""

_PHONES_HOME = ("openvino_telemetry",)
"""Reports each import of openvino and nncf to its vendor unless it is kept from being imported."""


def need(package: str, *, why: str = "") -> ModuleType:
    """Import `package` (a dotted name is fine). Raises MissingExtra, with the install line, where it is not installed."""
    require(package, why=why)
    for reporter in _PHONES_HOME:
        sys.modules.setdefault(reporter, None)  # type: ignore[arg-type]  # importing it fails, and who wanted it does without
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
        raise _missing(package, why) from None  # a part that comes by itself: others bring the package without it


def require(package: str, *, why: str = "") -> None:
    """Raises MissingExtra, as `need` does, but imports nothing."""
    if not has(package):
        raise _missing(package.split(".")[0], why)


def _missing(package: str, why: str) -> MissingExtra:
    top = package.split(".")[0]
    extra = EXTRA_OF.get(top)
    line = f'`pip install "hasten[{extra}]"`' if extra else f"`pip install {top}`"
    return MissingExtra(f"package {package!r}", f"is needed {why or 'here'} and is not installed", package=top, hint=f"Install it: {line}")


def has(package: str) -> bool:
    """Whether `package` is installed. Nothing is imported."""
    return importlib.util.find_spec(package.split(".")[0]) is not None


def missing(*packages: str) -> str | None:
    """One sentence about the packages that are not installed, or None. For the `fits` of leaves."""
    absent = [p for p in packages if not has(p)]
    if not absent:
        return None
    extras = sorted({EXTRA_OF.get(p, p) for p in absent})
    return f'{", ".join(absent)} not installed: pip install "hasten[{",".join(extras)}]"'
