"""The image that serves a bundle, for every platform that runs images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from ..core.seams import ServingNeeds

PORT = 8000
USER = 65532  # "nonroot" in the images that call it so: a user without an entry needs no adduser

_DOCKERFILE = """\
# syntax=docker/dockerfile:1
# {model}, bundle {digest}. Made by `hasten deploy`.
# The base image is named by its tag: for builds that are the same for ever, give its digest as PYTHON_IMAGE.
ARG PYTHON_IMAGE=python:{python}-slim-bookworm

# Packages are installed in one stage and copied to the next: pip and its caches stay behind.
FROM ${{PYTHON_IMAGE}} AS packages
COPY requirements.txt /requirements.txt
COPY wheels /wheels
RUN python -m venv /opt/hasten \\
 && /opt/hasten/bin/pip install --no-cache-dir --no-deps --find-links /wheels -r /requirements.txt

FROM ${{PYTHON_IMAGE}}
LABEL org.opencontainers.image.title="{model}" hasten.bundle="{digest}"
ENV PATH=/opt/hasten/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=packages /opt/hasten /opt/hasten
# Read by the server and owned by root: the server cannot change what it checks.
COPY bundle /bundle
USER {user}:{user}
EXPOSE {port}
STOPSIGNAL SIGTERM
# {startup}
HEALTHCHECK --interval=30s --timeout=5s --start-period={start_period}s --retries=3 \\
 CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/v2/health/ready', timeout=4)"]
ENTRYPOINT ["hasten"]
CMD {command}
"""

_WHEELS = """\
Wheels in this folder win over what the package index has. Put here what your index lacks, hasten's own for instance:

    pip wheel --no-deps --wheel-dir wheels /path/to/hasten
"""


def image_files(needs: ServingNeeds) -> dict[str, str]:
    """What `docker build .` needs, besides the bundle."""
    return {
        "Dockerfile": _DOCKERFILE.format(
            model=needs.model, digest=needs.digest, python=needs.python, user=USER, port=PORT, command=json.dumps(command(needs)),
            startup=needs.reasons.get("startup_seconds", "Start-up as it was said to be."),
            start_period=math.ceil(startup_limit(needs)),
        ),
        "requirements.txt": "\n".join(needs.requirements) + "\n",
        "wheels/README": _WHEELS,
        ".dockerignore": "*\n!bundle\n!requirements.txt\n!wheels\n",
    }  # fmt: skip


def command(needs: ServingNeeds) -> list[str]:
    """What the container runs, after `hasten`."""
    return ["serve", "/bundle", "--host", "0.0.0.0", "--port", str(PORT), *([] if needs.slo is None else ["--slo", needs.slo])]  # noqa: S104 (a container's own network)


def build_step(needs: ServingNeeds) -> str:
    return f"docker build --tag {needs.image} ."


def startup_limit(needs: ServingNeeds) -> float:
    """Seconds after which a start has failed: ten times what it took here, at least a minute. Other disks and loads are slower."""
    return max(10 * needs.startup_seconds, 60.0)


def mebibytes(needs: ServingNeeds) -> int:
    """The memory, rounded up."""
    return math.ceil(needs.memory_bytes / 2**20)


def sentences(needs: ServingNeeds) -> str:
    """Where the numbers come from, as a comment of YAML."""
    return "".join(f"# {reason}\n" for reason in needs.reasons.values())


def http_probe(path: str, **settings: int) -> Mapping[str, object]:
    """A probe of Kubernetes that asks the server."""
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 2, **settings}
