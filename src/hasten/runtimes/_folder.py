"""What every compiled folder holds beside the runtime's own files: the signature, and for which batch it was compiled; packed files."""

from __future__ import annotations

import json
import lzma
import os
import shutil
from pathlib import Path

from ..core.errors import BundleError
from ..core.signature import Signature

_NAME = "signature.json"


def write_signature(signature: Signature, folder: Path) -> None:
    """Keep the signature in `folder`."""
    (folder / _NAME).write_text(json.dumps(signature.to_json()), encoding="utf8")


def read_signature(folder: Path) -> Signature:
    """The signature in `folder`. Raises BundleError."""
    path = folder / _NAME
    try:
        return Signature.from_json(json.loads(path.read_text(encoding="utf8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"program {_NAME}", f"must be readable ({type(error).__name__})", got=str(path)) from None


def link_or_copy(source: Path, target: Path) -> None:
    """`target` becomes the content of `source`, without a copy where the disk allows."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def pack(path: Path) -> None:
    """The file becomes `path`.xz, compressed without loss: weights with many zeros or few values ship in a fraction of their bytes."""
    with lzma.open(_packed(path), "wb") as packed, path.open("rb") as plain:
        shutil.copyfileobj(plain, packed)
    path.unlink()


def is_there(path: Path) -> bool:
    """Whether there is such a file, packed or not."""
    return path.is_file() or _packed(path).is_file()


def unpacked(path: Path) -> bytes | None:
    """What the file held that `pack` packed; None where it is not packed. Raises BundleError where that is damaged."""
    if not _packed(path).is_file():
        return None
    try:
        return lzma.decompress(_packed(path).read_bytes())
    except (lzma.LZMAError, EOFError) as error:
        raise BundleError(f"program {path.name}.xz", f"must be whole ({error})", got=str(path)) from None


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.xz")
