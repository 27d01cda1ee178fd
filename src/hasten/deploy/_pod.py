"""The container and the pod that serve a bundle, for Kubernetes and what builds upon it."""

from __future__ import annotations

import math
from typing import Any

from ..core.seams import ServingNeeds
from ._image import PORT, USER, command, http_probe, mebibytes, startup_limit

_ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_LEAVING_SECONDS = 5  # until every proxy knows that the pod is leaving


def container(needs: ServingNeeds, name: str) -> dict[str, Any]:
    """Requests equal limits, in whole cores: so a node with static CPU management gives the pod cores of its own."""
    amount = {"cpu": str(needs.threads), "memory": f"{mebibytes(needs)}Mi"}
    period = max(1, math.ceil(needs.startup_seconds / 5))
    return {
        "name": name,
        "image": needs.image,
        "args": command(needs),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {"requests": amount, "limits": dict(amount)},
        "startupProbe": http_probe(
            "/v2/health/ready", periodSeconds=period, failureThreshold=math.ceil(startup_limit(needs) / period)
        ),
        "livenessProbe": http_probe("/v2/health/live", periodSeconds=10, failureThreshold=3),
        "readinessProbe": http_probe("/v2/health/ready", periodSeconds=2, failureThreshold=2),
        "lifecycle": {"preStop": {"sleep": {"seconds": _LEAVING_SECONDS}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108 (the container's own)
    }  # fmt: skip


def pod(needs: ServingNeeds) -> dict[str, Any]:
    """What goes around the container."""
    arch = _ARCHITECTURES.get(needs.arch)
    return {
        **({"nodeSelector": {"kubernetes.io/arch": arch}} if arch else {}),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "64Mi"}}],
    }  # fmt: skip
