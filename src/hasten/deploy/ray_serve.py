"""Ray Serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..core.seams import Platform, ServingNeeds
from ..core.units import parse_duration
from ._image import sentences, startup_limit
from ._yaml import dump

_MOST_ONGOING = 256  # requests in one replica: those that wait there share calls. Ray's own default of 5 would leave none to share

_APPLICATION = '''\
"""{model} on Ray Serve: each replica is the bundle's whole server, with its batching, protocols and page.

{reasons}
"""

import math
from pathlib import Path

from ray import serve
from starlette.applications import Starlette

from hasten.bundle.read import Bundle
from hasten.serve.app import create_app

BUNDLE = Path(__file__).with_name("bundle")


def build() -> Starlette:
    """The server of one replica, made where the replica runs. Its files are checked against their sha256 as they are loaded."""
    return create_app(Bundle.open(BUNDLE), objective={objective})


@serve.deployment(
    num_replicas={replicas},
    max_ongoing_requests={ongoing},
    ray_actor_options={{"num_cpus": {threads}, "memory": {memory}}},
    health_check_period_s=5,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=30,
)
@serve.ingress(build)
class Model:
    """{model}"""


app = Model.bind()
'''


class RayServe(Platform):
    """An application of Ray Serve and its configuration. Nodes need the packages of requirements.txt and this folder."""

    name: ClassVar[str] = "ray-serve"

    def render(self, needs: ServingNeeds) -> Mapping[str, str]:
        application = _APPLICATION.format(
            model=needs.model, reasons="\n".join(needs.reasons.values()), replicas=needs.replicas[0], ongoing=_MOST_ONGOING,
            threads=needs.threads, memory=needs.memory_bytes,
            objective="math.inf" if needs.slo is None else repr(parse_duration(needs.slo, field="--slo")),
        )  # fmt: skip
        if needs.slo is not None:
            application = application.replace("import math\n", "")
        config = {
            "http_options": {"host": "127.0.0.1", "port": 8000, "request_timeout_s": startup_limit(needs)},
            "applications": [
                {"name": needs.name, "route_prefix": "/", "import_path": "app:app", "deployments": [{"name": "Model", **_scale(needs)}]}
            ],
        }
        return {"app.py": application, "serve.yaml": dump(config, head=sentences(needs)), "requirements.txt": _requirements(needs)}

    def steps(self, needs: ServingNeeds) -> tuple[str, ...]:
        return "pip install --requirement requirements.txt 'ray[serve]'", "serve run serve.yaml"


def _scale(needs: ServingNeeds) -> Mapping[str, object]:
    low, high = needs.replicas
    if low == high:
        return {"num_replicas": low}
    return {
        "num_replicas": None,
        "autoscaling_config": {"min_replicas": low, "max_replicas": high, "target_ongoing_requests": _MOST_ONGOING // 8},
    }


def _requirements(needs: ServingNeeds) -> str:
    return "\n".join(needs.requirements) + "\n"
