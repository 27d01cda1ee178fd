"""What `hasten deploy` writes: valid for its platform, pinned, without torch, and with numbers that come from somewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("yaml", reason="the extra `deploy` is not installed")

import bundles
import yaml

from hasten import cli
from hasten.bundle.read import Bundle
from hasten.bundle.write import write

PLATFORMS = ("compose", "docker", "kserve", "kubernetes", "ray-serve")
GIVEN = ("--startup", "3s", "--memory", "300MiB")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    (folder / "parts").mkdir()
    return write(bundles.picture_contents(folder / "parts"), folder / "toy")


def deployed(bundle: Path, to: str, folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert cli.main(["deploy", str(bundle), "--to", to, "--output", str(folder), "--json", *more]) == 0
    return dict(json.loads(capsys.readouterr().out))


def documents(folder: Path) -> list[dict[str, Any]]:
    """Everything in YAML below `folder` that Kubernetes itself knows."""
    found = [document for path in sorted(folder.rglob("*.yaml")) for document in yaml.safe_load_all(path.read_text())]
    return [d for d in found if d.get("kind") in ("Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler")]


@pytest.mark.parametrize("to", PLATFORMS)
def test_every_version_is_pinned_to_the_certificate_s_and_torch_is_not_among_them(
    bundle: Path, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = deployed(bundle, to, tmp_path, capsys, *GIVEN)
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines)
    assert lines == document["requirements"]
    assert list(pins) == sorted(pins)
    manifest = Bundle.open(bundle).manifest
    recorded = {**manifest.versions, **manifest.runtime.versions}
    assert {name: pins[name] for name in recorded} == recorded
    assert {"starlette", "uvicorn", "onnxruntime", "prometheus-client", "h11", "pydantic-core"} <= set(pins)
    assert not {"torch", "onnx", "openvino", "nncf", "matplotlib", "pyarrow", "ray", "pytest"} & set(pins)
    assert cli.main(["verify", str(tmp_path / "bundle")]) == 0


def test_the_pins_hold_together(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every requirement of every pinned package is pinned too, in a version that it allows: pip installs them with --no-deps."""
    import importlib.metadata

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = dict(line.split("==") for line in deployed(bundle, "docker", tmp_path, capsys, *GIVEN)["requirements"])
    for name in pins:
        for text in importlib.metadata.requires(name) or ():
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                assert wanted.specifier.contains(pins[str(canonicalize_name(wanted.name))], prereleases=True), f"{name} wants {wanted}"


@pytest.mark.parametrize("to", ["docker", "compose", "kubernetes", "kserve"])
def test_a_linter_has_nothing_to_say_about_the_dockerfile(
    bundle: Path, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed")
    deployed(bundle, to, tmp_path, capsys, *GIVEN, "--slo", "50ms")
    done = subprocess.run([linter, "--failure-threshold", "style", str(tmp_path / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_not_root_and_asks_itself_without_curl(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployed(bundle, "docker", tmp_path, capsys, *GIVEN, "--slo", "50ms")
    lines = (tmp_path / "Dockerfile").read_text().splitlines()
    assert "USER 65532:65532" in lines
    assert 'CMD ["serve", "/bundle", "--host", "0.0.0.0", "--port", "8000", "--slo", "50ms"]' in lines
    (health,) = [line for line in lines if "/v2/health/ready" in line]
    assert "curl" not in health
    compile(json.loads(health.strip().removeprefix("CMD "))[2], "health", "exec")


def test_kubernetes_manifests_hold_to_the_schemas_of_kubernetes(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    deployed(bundle, "kubernetes", tmp_path, capsys, *GIVEN, "--slo", "50ms")
    found = documents(tmp_path)
    assert len(found) == 4
    for document in found:
        validate.validate(document, "1.34", strict=True)
    with pytest.raises(validate.ValidationError):  # the schemas do find what is wrong
        validate.validate({**found[0], "spec": {**found[0]["spec"], "replica": 2}}, "1.34", strict=True)
    listed = yaml.safe_load((tmp_path / "manifests/kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in (tmp_path / "manifests").iterdir()}


def test_the_pod_of_kserve_holds_to_the_schema_of_a_pod(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """KServe's own schema is not in any package; its predictor holds the fields of a pod, and four of its own."""
    validate = pytest.importorskip("kubernetes_validate")
    deployed(bundle, "kserve", tmp_path, capsys, *GIVEN)
    service = yaml.safe_load((tmp_path / "inference-service.yaml").read_text())
    predictor = service["spec"]["predictor"]
    own = {key: predictor.pop(key) for key in ("minReplicas", "maxReplicas", "containerConcurrency")}
    assert own == {"minReplicas": 2, "maxReplicas": 8, "containerConcurrency": 0}
    assert predictor["containers"][0]["name"] == "kserve-container"
    validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"], "spec": predictor}, "1.34", strict=True)


def test_probes_and_resources_follow_what_was_said(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployed(bundle, "kubernetes", tmp_path, capsys, "--startup", "30s", "--memory", "300MiB", "--slo", "80ms", "--replicas", "3-5")
    by_kind = {document["kind"]: document["spec"] for document in documents(tmp_path)}
    (server,) = by_kind["Deployment"]["template"]["spec"]["containers"]
    probe = server["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300, "ten times the start-up"
    assert server["resources"]["requests"] == server["resources"]["limits"] == {"cpu": "1", "memory": "300Mi"}
    scale = by_kind["HorizontalPodAutoscaler"]
    assert (scale["minReplicas"], scale["maxReplicas"]) == (3, 5)
    assert scale["metrics"][0]["pods"]["target"]["averageValue"] == "20m", "a quarter of the objective, in thousandths of a second"
    keda = yaml.safe_load((tmp_path / "autoscaling/keda.yaml").read_text())["spec"]
    assert keda["triggers"][0]["metadata"]["threshold"] == "0.02"
    assert set(by_kind["Service"]["selector"].items()) <= set(by_kind["Deployment"]["template"]["metadata"]["labels"].items())


def test_the_autoscalers_ask_for_metrics_that_the_server_has(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    pytest.importorskip("prometheus_client")
    from hasten.serve.metrics import Metrics

    deployed(bundle, "kubernetes", tmp_path, capsys, *GIVEN)
    metrics = Metrics()
    metrics.meter("m", "1", objective=1.0, waiting=lambda: 0, programs=lambda: 1).call(size=1, waited=[0.1], seconds=0.1, late=0)
    there = metrics.text()[0].decode()
    texts = [(tmp_path / "autoscaling" / name).read_text() for name in ("keda.yaml", "prometheus-adapter-values.yaml")]
    asked = {name for text in texts for name in re.findall(r"hasten_\w+(?=\{)", text)}
    assert {"hasten_queue_seconds_sum", "hasten_queue_seconds_count", "hasten_requests_total"} == asked
    assert [name for name in asked if f"\n{name}{{" not in there] == []


def test_what_is_not_said_is_measured_by_starting_the_server(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = deployed(bundle, "docker", tmp_path, capsys)
    assert document["startup_seconds"] > 0.05, "an interpreter that imports a runtime"
    assert document["memory_bytes"] > 512_000_000 + 1.25 * 30_000_000, "what it holds, and more than a bare interpreter"
    assert any("the longest of 3 starts here" in reason for reason in document["reasons"])


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--to", "kubernets"], "Did you mean 'kubernetes'?"),
        (["--to", "docker", "--replicas", "3-2"], "--replicas: must be"),
        (["--to", "docker", "--slo", "fast"], "--slo: must be a duration"),
        (["--to", "docker", "--slo", "1ms", "--output", "."], "--output: must be a folder of its own"),
    ],
)
def test_what_cannot_be_is_one_line(bundle: Path, args: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(bundle)
    assert cli.main(["deploy", str(bundle), *GIVEN, *args]) == 2
    assert part in capsys.readouterr().err


def test_a_bundle_that_does_not_serve_says_why(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["deploy", str(bundle), "--to", "docker", "--output", str(tmp_path), "--slo", "0.0001ms"]) == 3
    assert "does not serve here (error: --slo: must be longer than one sample takes here" in capsys.readouterr().err


def test_a_damaged_bundle_is_not_shipped(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    (damaged / "golden.npz").write_bytes(b"")
    assert cli.main(["deploy", str(damaged), "--to", "docker", "--output", str(tmp_path / "out"), *GIVEN]) == 2
    assert "golden.npz" in capsys.readouterr().err
