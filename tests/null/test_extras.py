"""pyproject.toml, constraints.txt and the gate to optional packages say the same."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hasten.core.need import EXTRA_OF

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: [Requirement(r) for r in rs] for name, rs in PROJECT["optional-dependencies"].items()}
FEATURES = {name: rs for name, rs in EXTRAS.items() if name not in ("all", "dev")}
BASE = {"click", "numpy", "onnxruntime", "pillow", "psutil", "pydantic", "rich", "scipy", "starlette", "uvicorn"}
DISTRIBUTION_OF = {
    "grpc": "grpcio",
    "mlflow": "mlflow-skinny",
    "opentelemetry": "opentelemetry-exporter-otlp-proto-http",
    "prometheus_client": "prometheus-client",
    "pynvml": "nvidia-ml-py",
    "python_multipart": "python-multipart",
    "simdjson": "pysimdjson",
    "sklearn": "scikit-learn",
    "torch_pruning": "torch-pruning",
    "yaml": "pyyaml",
}
APART = {"mlflow", "ray"}  # each with a decision that says why
COME_WITH_OTHERS = {"PIL", "google", "markupsafe"}  # pillow, onnxruntime and jinja2 bring them


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(re.fullmatch(r"([a-z0-9-]+)==(\S+)", line).groups() for line in lines if line and not line.startswith("#"))  # type: ignore[union-attr]


def test_the_base_stays_small() -> None:
    assert {Requirement(r).name for r in PROJECT["dependencies"]} == BASE


def test_every_gated_package_is_in_the_extra_that_its_error_names() -> None:
    for package, extra in EXTRA_OF.items():
        assert DISTRIBUTION_OF.get(package, package) in {r.name for r in FEATURES[extra]}, package


def test_every_package_of_an_extra_passes_the_gate() -> None:
    gated = {(DISTRIBUTION_OF.get(package, package), extra) for package, extra in EXTRA_OF.items()}
    assert {(r.name, extra) for extra, rs in FEATURES.items() for r in rs} == gated


def test_all_means_every_feature_but_those_whose_weight_few_want() -> None:
    (everything,) = EXTRAS["all"]
    assert everything.name == "hasten"
    assert everything.extras == set(FEATURES) - APART


def test_every_need_in_the_source_is_known_to_the_gate() -> None:
    asked = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("need", "missing"):
                asked |= {a.value.split(".")[0] for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    assert asked - BASE - COME_WITH_OTHERS <= set(EXTRA_OF)


@pytest.mark.parametrize(
    "requirement", [Requirement(r) for r in PROJECT["dependencies"]] + [r for n, rs in EXTRAS.items() if n != "all" for r in rs], ids=str
)
def test_constraints_pin_what_is_required(requirement: Requirement) -> None:
    assert requirement.specifier.contains(_pins()[canonicalize_name(requirement.name)])
