"""Asks a server of hasten, or any server of the Open Inference Protocol. Needs the extra `client`, and neither torch nor a web framework.

    with Client("http://127.0.0.1:8000") as client:
        client.classify("cat.jpg", top_k=3)[0].label
        client.predict("digits", {"pixels": pixels})["scores"]

`AsyncClient` is the same with `async with` and `await`.
"""

from __future__ import annotations

from ..core.guess import Guess as Guess
from .aio import AsyncClient as AsyncClient
from .sync import Client as Client

__all__ = ["AsyncClient", "Client", "Guess"]
