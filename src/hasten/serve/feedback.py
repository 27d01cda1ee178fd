"""Answers that may still be judged: the newest ones, by request id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..core.errors import DataError

MOST_ANSWERS = 10_000
MOST_SAMPLES = 256
"""Samples of one request that are remembered: a larger one cannot be judged."""
MOST_ID = 128


class Answered(NamedTuple):
    """What one request was told. token: the model's; routed: whether chance chose the version; names: of the classes, where they have
    any; classes: the most probable one of each sample."""

    model: str
    version: str
    token: object
    routed: bool
    names: Sequence[str] | None
    classes: Sequence[int]

    def judge(self, label: Any) -> list[bool]:
        """Whether each sample's class is the label: a class's number or name, or a list of them. Raises DataError."""
        labels = label if isinstance(label, list) else [label]
        if len(labels) != len(self.classes):
            raise DataError("label", f"must be a list of {len(self.classes)} for this request", got=len(labels))
        return [self._class(one) == found for one, found in zip(labels, self.classes, strict=True)]

    def _class(self, label: Any) -> int:
        if isinstance(label, str) and self.names and label in self.names:
            return self.names.index(label)
        if type(label) is int and 0 <= label < (len(self.names) if self.names else 2**31):
            return label
        raise DataError("label", "must be one of the model's classes, by number or name", got=label)


class Answers:
    """The newest `most` answers. One that was judged is forgotten, so that nobody is counted twice."""

    def __init__(self, most: int = MOST_ANSWERS) -> None:
        self._most = most
        self._known: OrderedDict[str, Answered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, request_id: str, answered: Answered) -> None:
        """Of two with one id, the newer one. An id that is too long to be kept is left out."""
        if len(request_id) > MOST_ID:
            return
        self._known[request_id] = answered
        self._known.move_to_end(request_id)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def get(self, request_id: str) -> Answered | None:
        """The answer, where it is still known."""
        return self._known.get(request_id)

    def forget(self, request_id: str) -> None:
        self._known.pop(request_id, None)
