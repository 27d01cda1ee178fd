"""Which version answers a request, and what is learnt from its answer."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .batcher import Outputs
from .models import Model, Models, Wish


@dataclass(kw_only=True)
class Assignment:
    """One request and the version that answers it, which stays loaded until the request has ended.

    id: by which its sender may speak of it later.
    """

    model: Model
    id: str

    async def infer(self, tensors: Mapping[str, np.ndarray], wish: Wish) -> Outputs:
        """The outputs for checked tensors. Raises what `Model.infer` raises."""
        return await self.model.infer(tensors, wish)

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says of itself."""
        return {"x-request-id": self.id, "hasten-model-version": self.model.version}


@dataclass(kw_only=True)
class Router:
    """Chooses among the versions of `models`."""

    models: Models

    @contextlib.contextmanager
    def assign(self, name: str, version: str | None, *, request_id: str | None = None) -> Iterator[Assignment]:
        """The version that answers, as long as this lasts. Raises UnknownModel."""
        model = self.models.get(name, version)
        with model.held():
            yield Assignment(model=model, id=request_id or uuid.uuid4().hex)
