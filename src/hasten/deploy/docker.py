"""Docker, Podman, and whatever else builds a Dockerfile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..core.seams import Platform, ServingNeeds
from ._image import PORT, build_step, image_files, mebibytes


class Docker(Platform):
    """A slim image: no torch, not root, every version pinned, a health check."""

    name: ClassVar[str] = "docker"

    def render(self, needs: ServingNeeds) -> Mapping[str, str]:
        return image_files(needs)

    def steps(self, needs: ServingNeeds) -> tuple[str, ...]:
        limits = f"--cpus {needs.threads} --memory {mebibytes(needs)}m"
        safety = "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
        return build_step(needs), f"docker run --rm {limits} {safety} --publish 127.0.0.1:{PORT}:{PORT} {needs.image}"
