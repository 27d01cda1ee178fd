"""What every compiled folder holds beside the runtime's own files: the signature, and for which batch it was compiled."""

from __future__ import annotations

import json
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
