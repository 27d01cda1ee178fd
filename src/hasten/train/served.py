"""A teacher behind a server of the Open Inference Protocol, asked as if it was a module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from ..client import Client
from ..core.errors import JobError, NotPossibleHere, WorkerError
from ..core.signature import Signature

if TYPE_CHECKING:
    import torch

_ADDRESS = re.compile(r"(https?://[^/]+)/(?:v2/models/)?([^/]+)(?:/versions/([^/]+))?/?")
_TIMEOUT_SECONDS = 120.0  # for one batch, repetitions included


class Served:
    """The model at `address`: `http(s)://host:port/MODEL`, or with `/versions/V` after it; it must answer what `signature` has.

    Raises JobError for an address that is none, MissingExtra without the extra `client`.
    """

    def __init__(self, address: str, signature: Signature) -> None:
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise JobError("train.teacher", "must be http(s)://host:port/MODEL", got=address)
        server, self._model, self._version = found.groups()
        self._signature, self._address = signature, address
        self._client = Client(server, timeout=_TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, in the order of the signature. Raises what `ask` raises."""
        import torch

        names = [spec.name for spec in self._signature.inputs]
        answers = self.ask({name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        return tuple(torch.from_numpy(np.array(answer)) for answer in answers)

    def ask(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs for `inputs`, [n, ...] each, in the order of the signature. An output may have another name where there is one only.

        Raises JobError where they are not like the model's, WorkerError where the server does not answer: later it may.
        """
        try:
            answers = self._client.predict(self._model, inputs, version=self._version, priority="bulk")
        except NotPossibleHere as error:
            hint = "The same command goes on when it does"
            raise WorkerError("train.teacher", f"must answer at {self._address} ({error})", cause="killed", hint=hint) from error
        specs = self._signature.outputs
        if len(specs) == len(answers) == 1:
            answers = {specs[0].name: next(iter(answers.values()))}
        count = len(next(iter(inputs.values())))
        for spec in specs:
            wanted, got = (count, *spec.shape[1:]), answers[spec.name].shape if spec.name in answers else None
            if got is None or any(size not in (None, there) for size, there in zip(wanted, got, strict=False)):
                given = f"the outputs {', '.join(answers)}" if got is None else got
                raise JobError("train.teacher", f"must give {spec.name} {wanted} as the model does", got=given)
        return [answers[spec.name] for spec in specs]
