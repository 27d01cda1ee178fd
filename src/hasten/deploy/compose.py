"""Docker Compose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from ..core.seams import Platform, ServingNeeds
from ._image import PORT, image_files, mebibytes, sentences, startup_limit
from ._yaml import dump


class Compose(Platform):
    """One service of Compose, with the image that it builds."""

    name: ClassVar[str] = "compose"

    def render(self, needs: ServingNeeds) -> Mapping[str, str]:
        service = {
            "build": ".",
            "image": needs.image,
            "ports": [f"127.0.0.1:{PORT}:{PORT}"],
            "read_only": True,
            "tmpfs": ["/tmp"],  # noqa: S108 (the container's own)
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "restart": "unless-stopped",
            "stop_grace_period": "30s",
            "healthcheck": {"start_period": f"{math.ceil(startup_limit(needs))}s"},
            "deploy": {"resources": {"limits": {"cpus": str(needs.threads), "memory": f"{mebibytes(needs)}M"}}},
        }
        return {**image_files(needs), "compose.yaml": dump({"services": {needs.name: service}}, head=sentences(needs))}

    def steps(self, needs: ServingNeeds) -> tuple[str, ...]:
        return ("docker compose up --build --detach --wait",)
