"""A headless Chromium, driven through its debugging pipe: no driver and no package is needed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
            "--window-size=1000,1400"]  # fmt: skip


class Tab:
    """One page. problems: what it threw or wrote as an error; asked: every address that it asked for."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = os.fdopen(write, "wb", buffering=0), os.fdopen(read, "rb", buffering=0)
        self._number, self._rest, self._session = 0, b"", ""
        self.problems: list[str] = []
        self.asked: list[str] = []

    def open(self, url: str) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page", "DOM"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && document.body !== null")

    def run(self, expression: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true: 60 s at most."""
        assert self.run(f"new Promise((done, fail) => {{ const end = Date.now() + 60000; (function look() {{ if ({condition}) done(true);"
                        f" else if (Date.now() > end) fail(new Error('never')); else setTimeout(look, 20); }})(); }})")  # fmt: skip

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file, as a person does."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._heard(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _heard(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(event["params"]["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.problems.append(event["params"]["entry"]["text"] + " " + event["params"]["entry"].get("url", ""))
        elif event.get("method") == "Network.requestWillBeSent":
            self.asked.append(event["params"]["request"]["url"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = self._read.read(1 << 16)
            assert piece, "the browser has ended"
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(text))


@contextmanager
def tab(url: str) -> Iterator[Tab]:
    """A tab of a browser of its own."""
    assert CHROMIUM is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in (theirs_in, theirs_out)]  # not 3 or 4 themselves

    def connect() -> None:
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    with tempfile.TemporaryDirectory(prefix="hasten-browser-", ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        with subprocess.Popen(command, preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            for descriptor in (theirs_in, theirs_out, *high):
                os.close(descriptor)
            try:
                made = Tab(ours_out, ours_in)
                made.open(url)
                yield made
            finally:
                child.kill()
