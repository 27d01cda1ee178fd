"""From a bundle to a folder that a platform takes."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..bundle.manifest import is_bundle
from ..bundle.read import Bundle
from ..core.errors import JobError, NotPossibleHere
from ..core.seams import Platform, ServingNeeds
from ._measure import starts
from ._plan import copied, plan

_BUNDLE = "bundle"


def write(
    platform: Platform,
    bundle: Bundle,
    out: Path,
    *,
    image: str | None = None,
    slo: str | None = None,
    replicas: tuple[int, int],
    startup_seconds: float | None = None,
    memory_bytes: int | None = None,
    held_bytes: int,
) -> tuple[ServingNeeds, list[Path]]:
    """What `bundle` needs and the files for `platform`, with a checked copy of the bundle; those of an earlier call are replaced.

    startup_seconds, memory_bytes: where one is None, the server is started here to measure it; held_bytes: of requests that it may hold.
    Raises JobError where `out` is a bundle or no folder, NotPossibleHere where it cannot be written or the bundle does not serve here,
    BundleError, MissingExtra.
    """
    if out.is_file() or is_bundle(out):
        raise JobError("--output", "must be a folder of its own", got=str(out))
    measured = starts(bundle.path, slo=slo) if startup_seconds is None or memory_bytes is None else []
    needs = plan(
        bundle, image=image, slo=slo, replicas=replicas, startup_seconds=startup_seconds, memory_bytes=memory_bytes, measured=measured,
        held_bytes=held_bytes,
    )  # fmt: skip
    texts = platform.render(needs)  # before anything is written
    try:
        written = [_write(out / name, text) for name, text in texts.items()]
        _copy(bundle, out / _BUNDLE)
    except OSError as error:
        raise NotPossibleHere("--output", f"cannot be written ({error.strerror})", got=str(out), hint="Name another place") from None
    return needs, [*written, out / _BUNDLE]


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf8")
    return path


def _copy(bundle: Bundle, target: Path) -> None:
    if target.exists():
        if not is_bundle(target):
            raise JobError("--output", f"must not hold a {_BUNDLE}/ that is no bundle", got=str(target))
        shutil.rmtree(target)
    for source, name in copied(bundle):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)
