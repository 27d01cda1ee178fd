"""KServe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..core.seams import Platform, ServingNeeds
from ._image import build_step, image_files, sentences
from ._pod import container, pod
from ._yaml import dump


class KServe(Platform):
    """An InferenceService whose container is the bundle's own server: it speaks the Open Inference Protocol v2 already."""

    name: ClassVar[str] = "kserve"

    def render(self, needs: ServingNeeds) -> Mapping[str, str]:
        predictor = {
            "minReplicas": needs.replicas[0],
            "maxReplicas": needs.replicas[1],
            "containerConcurrency": 0,  # no limit: requests that wait in the server share calls, those that wait outside cannot
            "containers": [container(needs, "kserve-container")],
            **pod(needs),
        }
        service = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": needs.name, "labels": {"app.kubernetes.io/managed-by": "hasten", "hasten/bundle": needs.digest}},
            "spec": {"predictor": predictor},
        }
        return {**image_files(needs), "inference-service.yaml": dump(service, head=sentences(needs))}

    def steps(self, needs: ServingNeeds) -> tuple[str, ...]:
        return build_step(needs), f"docker push {needs.image}", "kubectl apply --filename inference-service.yaml"
