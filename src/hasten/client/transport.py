"""What both clients share: the server that they ask, and the HTTP library, its settings, and its errors as ours."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator, Mapping
from typing import Any, TypeVar

from ..core.errors import JobError, NotPossibleHere
from ..core.need import need
from .conversation import Unreachable, conversation
from .messages import Call, Message, Reply

T = TypeVar("T")

TIMEOUT_SECONDS, RETRIES = 30.0, 2


class Endpoint:
    """What both clients are: a server at `url`, and connections to it that are kept.

    kind: the library's class of client. Raises JobError, MissingExtra.
    """

    def __init__(self, url: str, timeout: float, retries: int, headers: Mapping[str, str] | None, *, kind: str) -> None:
        self._url, self._timeout, self._retries = _check(url, timeout, retries), timeout, retries
        self._library = need("httpx2", why="to ask a server")
        with self._translated():
            self._http = getattr(self._library, kind)(base_url=self._url, headers=headers)

    def _conversation(self, call: Call[T], timeout: float | None) -> Generator[tuple[Message, float] | float, Reply | None, T]:
        return conversation(call, timeout=self._timeout if timeout is None else timeout, retries=self._retries)

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        return translated(self._library, self._url)


def _check(url: str, timeout: float, retries: int) -> str:
    """The address without a slash at its end. Raises JobError."""
    if not url.startswith(("http://", "https://")):
        raise JobError("url", "must begin with http:// or https://", got=url)
    if timeout <= 0:
        raise JobError("timeout", "must be seconds above 0", got=timeout)
    if retries < 0:
        raise JobError("retries", "must be 0 or more", got=retries)
    return url.rstrip("/")


def arguments(message: Message, left: float) -> dict[str, Any]:
    """A message as the library takes it."""
    return {
        "method": message.method,
        "url": message.path,
        "content": message.content,
        "headers": message.headers,
        "params": message.params or None,
        "timeout": left if math.isfinite(left) else None,
    }


def reply(response: Any) -> Reply:
    """A response of the library."""
    headers: Mapping[str, str] = response.headers
    return Reply(status=response.status_code, headers=headers, content=response.content)


@contextlib.contextmanager
def translated(http: Any, url: str) -> Iterator[None]:
    """The library's errors as ours. Raises NotPossibleHere for a time-out, Unreachable for a lost connection, JobError for a wrong URL."""
    try:
        yield
    except http.TimeoutException:
        raise NotPossibleHere("server", f"did not answer in time at {url}", hint="Give it more with `timeout`") from None
    except http.TransportError as error:
        raise Unreachable("server", f"cannot be reached at {url} ({str(error) or type(error).__name__})", hint="Does it run?") from None
    except http.InvalidURL as error:
        raise JobError("url", f"must be an address ({error})", got=url) from None
