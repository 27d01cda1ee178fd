"""The manifest: what a bundle says about itself. Validated before anything else is read."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.candidate import Candidate
from ..core.digest import digest_json
from ..core.errors import BundleError
from ..core.preprocess import ImagePreprocess
from ..core.seams import Target
from ..core.signature import Signature
from .layout import COPY_AGAIN, MANIFEST, PROGRAM, SCHEMA_VERSION

MAX_MANIFEST_BYTES = 32_000_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class FileRecord(_Part):
    """One file as it was written."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class RuntimeRecord(_Part):
    """What runs the program. knobs: every one, defaults too, so that a changed default changes nothing here."""

    name: str
    knobs: dict[str, Any]
    versions: dict[str, str]


class TargetRecord(_Part):
    threads: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    device: str


class Manifest(_Part):
    """Everything but the files' content. output: the output that was judged; classifier: it holds scores [N, classes];
    probabilities: those scores are probabilities already; machine: where it was certified (core.machine.Machine)."""

    schema_version: int
    model: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    created: str
    candidate: dict[str, Any]
    runtime: RuntimeRecord
    target: TargetRecord
    preprocess: ImagePreprocess | None
    labels: tuple[str, ...] | None
    metric: str
    output: str
    classifier: bool
    probabilities: bool
    limits: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, FileRecord]

    @property
    def signature(self) -> Signature:
        return Signature.from_json(self.candidate["signature"])

    def to_candidate(self, root: Path) -> Candidate:
        """The candidate whose program ships; its path is the program's folder."""
        return Candidate.from_json(self.candidate, root / PROGRAM)

    def to_target(self) -> Target:
        return Target(threads=self.target.threads, batch_size=self.target.batch_size, device=self.target.device)

    @property
    def digest(self) -> str:
        """What tells this bundle from any other: it holds the digests of all its files."""
        return digest_json(self.model_dump(mode="json"))

    def text(self) -> str:
        """The file's content: with a digest of itself, so that a flipped bit shows here too."""
        return json.dumps({**self.model_dump(mode="json"), "digest": self.digest}, indent=1) + "\n"


def read_manifest(root: Path) -> Manifest:
    """The manifest of the bundle in `root`. Raises BundleError for whatever is wrong with it, and for files that leave the folder."""
    content = _read_json(root)
    version = content.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BundleError(MANIFEST, "must hold schema_version, a whole number", got=version, hint="Is this a bundle of hasten?")
    if version > SCHEMA_VERSION:
        raise BundleError(
            MANIFEST,
            f"must have a schema version of at most {SCHEMA_VERSION}",
            got=version,
            hint="It was written by a newer hasten: `pip install --upgrade hasten`",
        )
    digest = content.pop("digest", None)
    if digest != digest_json(content):
        raise BundleError(MANIFEST, "was changed after it was written (its digest does not match)", hint=COPY_AGAIN)
    try:
        manifest = Manifest.model_validate(content)
        manifest.to_candidate(root)
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(f"{MANIFEST} {'.'.join(map(str, first['loc']))}", first["msg"][:1].lower() + first["msg"][1:]) from None
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{MANIFEST} candidate", f"cannot be read ({type(error).__name__}: {error})") from None
    for name in manifest.files:
        check_inside(root, name)
    return manifest


def check_inside(root: Path, name: str) -> Path:
    """The path of the bundle's file `name`. Raises BundleError where the name or a link would leave the folder."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or pure.as_posix() != name or name == ".":
        raise BundleError(MANIFEST, "must name only files inside the bundle", got=name)
    path = root
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(name, "must not be a link or lie behind one", hint="Copy the bundle with its files, not with links to them")
    return path


def is_bundle(folder: Path) -> bool:
    """Whether `folder` looks like a bundle, even a damaged or newer one: what may be replaced by another bundle."""
    try:
        return "schema_version" in _read_json(folder)
    except BundleError:
        return False


def _read_json(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    try:
        if not root.is_dir():
            raise BundleError("bundle", "must be a folder", got=os.fspath(root), hint="`hasten optimize ... --out FOLDER` writes one")
        if path.is_symlink():
            raise BundleError(MANIFEST, "must not be a link")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(MANIFEST, f"must be at most {MAX_MANIFEST_BYTES} bytes", got=path.stat().st_size)
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError("bundle", f"must hold {MANIFEST}", got=os.fspath(root), hint="Is this the folder that --out named?") from None
    except OSError as error:
        raise BundleError(MANIFEST, f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(MANIFEST, f"must be JSON ({error})", hint="It may be truncated: copy the bundle again") from None
    if not isinstance(content, dict):
        raise BundleError(MANIFEST, "must be a JSON object", got=type(content).__name__)
    return content
