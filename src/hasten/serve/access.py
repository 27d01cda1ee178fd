"""Who may ask, and how much: API keys from a file.

    [alice]
    sha256 = "5e88..."             # of the key: printf %s "$KEY" | sha256sum. The key itself is in no file of the server's
    requests_per_second = 100      # on average; whoever asks more is answered 429 with Retry-After
    burst = 200                    # at once, after a pause
    concurrency = 8                # requests under way
    reload = true                  # may load and unload models

All but sha256 may be left out, and is then without a limit (reload: false). A key comes as `Authorization: Bearer KEY` or `X-API-Key: KEY`,
over gRPC as metadata of the same names. Liveness and readiness need none.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import math
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..core.errors import JobError, NotKnown, RateLimited
from .exchange import Exchange

KEYS = ("authorization", "x-api-key")
"""Headers, and metadata over gRPC, that carry a key."""

OPEN = frozenset({"/v2/health/live", "/v2/health/live/", "/v2/health/ready", "/v2/health/ready/"})
"""Paths that need no key: probes carry none."""


class Rights(BaseModel):
    """What one key may do. The fields are those of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    requests_per_second: Annotated[float, Field(gt=0)] = math.inf
    burst: Annotated[float, Field(ge=1)] = 1.0
    concurrency: Annotated[int, Field(ge=1)] | None = None
    reload: bool = False


CALLER: ContextVar[Rights | None] = ContextVar("hasten_caller", default=None)
"""The rights of whoever asks, while he is answered; None where no keys are needed."""


@dataclass(kw_only=True)
class Caller:
    """One key as it is used. `level` requests may come at once; they come back at the key's rate (a token bucket)."""

    name: str
    rights: Rights
    level: float = field(init=False)
    at: float = 0.0
    under_way: int = 0

    def __post_init__(self) -> None:
        self.level = self.rights.burst

    def take(self, now: float) -> None:
        """Count one request. Raises RateLimited."""
        rate = self.rights.requests_per_second
        if self.rights.concurrency is not None and self.under_way >= self.rights.concurrency:
            raise RateLimited(f"{self.under_way} of this key are under way already", retry_after_seconds=1.0)
        if math.isfinite(rate):
            self.level, self.at = min(self.rights.burst, self.level + (now - self.at) * rate), now
            if self.level < 1:
                raise RateLimited(f"this key may ask {rate:g} a second", retry_after_seconds=(1 - self.level) / rate)
            self.level -= 1
        self.under_way += 1


class Access:
    """The keys of one server. clock: seconds that only grow."""

    def __init__(self, rights: Mapping[str, Rights], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._callers = [(bytes.fromhex(given.sha256), Caller(name=name, rights=given)) for name, given in rights.items()]

    @classmethod
    def read(cls, path: Path | str) -> Access:
        """The keys in the file `path`. Raises JobError."""
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf8"))
            return cls(TypeAdapter(dict[str, Rights]).validate_python(content))
        except OSError as error:
            raise JobError("--api-keys", f"cannot be read ({error.strerror})", got=str(path)) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise JobError(f"--api-keys {where}", f"is wrong ({first['msg']})", hint="hasten.serve.access shows the file") from None
        except ValueError as error:
            raise JobError("--api-keys", f"must be TOML ({error})", got=str(path)) from None

    @contextlib.contextmanager
    def admitted(self, given: Sequence[tuple[str, str]], exchange: Exchange | None = None) -> Iterator[None]:
        """One request with these headers, as long as it lasts; `exchange` hears whose key it is. Raises NotKnown, RateLimited."""
        caller = self._find(_key(given))
        if exchange is not None:
            exchange.key = caller.name
        caller.take(self._clock())
        before = CALLER.set(caller.rights)
        try:
            yield
        finally:
            caller.under_way -= 1
            CALLER.reset(before)

    def _find(self, key: str) -> Caller:
        """Compares with all of them, each in constant time, so that the time tells nothing about any."""
        digest, found = hashlib.sha256(key.encode()).digest(), None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None or not key:
            raise NotKnown("API key", "must be given as `Authorization: Bearer KEY`, and be one that is known")
        return found


def _key(given: Sequence[tuple[str, str]]) -> str:
    for name, value in given:
        if name.lower() == "authorization" and value[:7].lower() == "bearer ":
            return value[7:].strip()
        if name.lower() == "x-api-key":
            return value.strip()
    return ""
