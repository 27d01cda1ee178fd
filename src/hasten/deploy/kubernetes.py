"""Kubernetes, with HPA or KEDA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ..core.seams import Platform, ServingNeeds
from ._image import build_step, image_files, sentences
from ._pod import container, pod
from ._yaml import dump

_DELAY = "hasten_queue_delay_seconds"
_WINDOW = "1m"
_CALM_SECONDS = 300  # before replicas go


class Kubernetes(Platform):
    """A Deployment with its Service, disruption budget and autoscaling on the delay in the queue."""

    name: ClassVar[str] = "kubernetes"

    def render(self, needs: ServingNeeds) -> Mapping[str, str]:
        documents = {
            "deployment.yaml": _deployment(needs),
            "service.yaml": _service(needs),
            "disruption.yaml": _disruption(needs),
            "hpa.yaml": _hpa(needs),
        }
        files = {name: dump(document, head=sentences(needs)) for name, document in documents.items()}
        return {
            **image_files(needs),
            **{f"manifests/{name}": text for name, text in files.items()},
            "manifests/kustomization.yaml": dump(_kustomization(list(documents))),
            "autoscaling/keda.yaml": dump(_keda(needs), head=_KEDA_HEAD + sentences(needs)),
            "autoscaling/prometheus-adapter-values.yaml": dump(_adapter(), head=_ADAPTER_HEAD),
        }

    def steps(self, needs: ServingNeeds) -> tuple[str, ...]:
        return build_step(needs), f"docker push {needs.image}", "kubectl apply --kustomize manifests"


_KEDA_HEAD = """\
# In place of manifests/hpa.yaml, never beside it: both would scale the same Deployment. Needs KEDA; the address is that of your Prometheus.
"""
_ADAPTER_HEAD = f"""\
# Values of the Helm chart prometheus-adapter, which makes {_DELAY} a metric that manifests/hpa.yaml can ask for.
"""


def _labels(needs: ServingNeeds) -> dict[str, str]:
    return {"app.kubernetes.io/name": needs.name, "app.kubernetes.io/managed-by": "hasten"}


def _named(kind: str, version: str, needs: ServingNeeds, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": needs.name, "labels": _labels(needs)}, "spec": spec}


def _selector(needs: ServingNeeds) -> dict[str, str]:
    return {"app.kubernetes.io/name": needs.name}


def _deployment(needs: ServingNeeds) -> dict[str, Any]:
    notes = {"prometheus.io/scrape": "true", "prometheus.io/port": "8000", "prometheus.io/path": "/metrics"}
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
              "labelSelector": {"matchLabels": _selector(needs)}}  # fmt: skip
    spec = {
        # No `replicas`: they are the autoscaler's, and applying this again would set them back.
        "selector": {"matchLabels": _selector(needs)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {
            "metadata": {"labels": {**_labels(needs), "hasten/bundle": needs.digest}, "annotations": notes},
            "spec": {"containers": [container(needs, "server")], **pod(needs), "topologySpreadConstraints": [spread]},
        },
    }
    return _named("Deployment", "apps/v1", needs, spec)


def _service(needs: ServingNeeds) -> dict[str, Any]:
    return _named("Service", "v1", needs, {"selector": _selector(needs), "ports": [{"name": "http", "port": 80, "targetPort": "http"}]})


def _disruption(needs: ServingNeeds) -> dict[str, Any]:
    return _named("PodDisruptionBudget", "policy/v1", needs, {"maxUnavailable": 1, "selector": {"matchLabels": _selector(needs)}})


def _hpa(needs: ServingNeeds) -> dict[str, Any]:
    delay = {"type": "Pods", "pods": {"metric": {"name": _DELAY}, "target": {"type": "AverageValue", "averageValue": _quantity(needs)}}}
    # Nobody waits where nobody asks: without this one, the delay alone would never let a replica go.
    busy = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": needs.name},
        "minReplicas": needs.replicas[0],
        "maxReplicas": needs.replicas[1],
        "metrics": [delay, busy],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": _CALM_SECONDS}},
    }
    return _named("HorizontalPodAutoscaler", "autoscaling/v2", needs, spec)


def _keda(needs: ServingNeeds) -> dict[str, Any]:
    def trigger(query: str, threshold: float) -> dict[str, Any]:
        where = {"serverAddress": "http://prometheus.monitoring:9090", "query": query, "threshold": f"{threshold:.4g}"}
        return {"type": "prometheus", "metricType": "Value", "metadata": where}

    mine = f'pod=~"{needs.name}-.*"'
    delay = f"sum(rate(hasten_queue_seconds_sum{{{mine}}}[{_WINDOW}])) / (sum(rate(hasten_queue_seconds_count{{{mine}}}[{_WINDOW}])) > 0)"
    # Who is refused at once does not wait: the delay alone would not show an overload.
    refused = f'sum(rate(hasten_requests_total{{{mine},outcome=~"refused|queue_full"}}[{_WINDOW}]))'
    spec = {
        "scaleTargetRef": {"name": needs.name},
        "minReplicaCount": needs.replicas[0],
        "maxReplicaCount": needs.replicas[1],
        "cooldownPeriod": _CALM_SECONDS,
        "triggers": [trigger(f"({delay}) or vector(0)", needs.wait_seconds), trigger(f"({refused}) or vector(0)", 1.0)],
    }
    return _named("ScaledObject", "keda.sh/v1alpha1", needs, spec)


def _adapter() -> dict[str, Any]:
    def rate(series: str) -> str:
        return f"sum(rate({series}{{<<.LabelMatchers>>}}[{_WINDOW}])) by (<<.GroupBy>>)"

    rule = {
        "seriesQuery": 'hasten_queue_seconds_sum{namespace!="",pod!=""}',
        "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
        "name": {"as": _DELAY},
        "metricsQuery": f"{rate('hasten_queue_seconds_sum')} / ({rate('hasten_queue_seconds_count')} > 0)",
    }
    return {"rules": {"custom": [rule]}}


def _kustomization(names: list[str]) -> dict[str, Any]:
    return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": names}


def _quantity(needs: ServingNeeds) -> str:
    """Seconds as Kubernetes writes them: in thousandths."""
    return f"{max(math.ceil(needs.wait_seconds * 1000), 1)}m"
