"""The search, live: what is tried and why, what was learnt, the best so far, and the time that is left.

A display on a terminal, plain lines elsewhere; always on standard error, so that standard output holds results only.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ..core.units import format_seconds
from ..search.observer import Observer
from .output import console

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_REMEMBERED = 6  # lines of what was learnt
_REFRESHES = 2  # a second: the display must not disturb what is timed


def watch(*, quiet: bool) -> AbstractContextManager[Observer]:
    """An observer for the time of a search."""
    if quiet:
        return nullcontext(Observer())
    screen = console(stderr=True)
    return Display(screen) if screen.is_terminal else nullcontext(Lines(screen))


class Lines(Observer):
    """One line an event, with the seconds since the start."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._began = time.monotonic()

    def stage(self, name: str, why: str) -> None:
        self._print(f"== {name}: {why}" if why else f"== {name}")

    def trying(self, what: str, why: str, fraction: float | None = None) -> None:
        if fraction is None:
            self._print(f"   {what}: {why}" if why else f"   {what}")

    def learnt(self, sentence: str) -> None:
        self._print(f"   -> {sentence}")

    def best(self, sentence: str) -> None:
        self._print(f"   best so far: {sentence}")

    def warn(self, sentence: str) -> None:
        self._print(f"warning: {sentence}")

    def _print(self, line: str) -> None:
        self._screen.print(f"{time.monotonic() - self._began:6.0f} s  {line}", soft_wrap=True)


class Display(Observer):
    """A small display that is drawn in place, and goes when the search ends; warnings stay."""

    def __init__(self, screen: Console) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        self._screen = screen
        self._stage = self._what = self._best = ""
        self._fraction: float | None = None
        self._learnt: deque[str] = deque(maxlen=_REMEMBERED)
        self._began = time.monotonic()
        self._budget = 0.0
        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self._draw, console=screen, refresh_per_second=_REFRESHES, transient=True)

    def __enter__(self) -> Display:
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)

    def budget(self, seconds: float) -> None:
        self._began, self._budget = time.monotonic(), seconds

    def stage(self, name: str, why: str) -> None:
        self._stage = f"{name}: {why}" if why else name
        self._what, self._fraction = "", None

    def trying(self, what: str, why: str, fraction: float | None = None) -> None:
        self._fraction = fraction
        if fraction is None:
            self._what = f"{what}: {why}" if why else what

    def learnt(self, sentence: str) -> None:
        self._learnt.append(sentence)
        self._fraction = None

    def best(self, sentence: str) -> None:
        self._best = sentence

    def warn(self, sentence: str) -> None:
        self._screen.print(f"warning: {sentence}")

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        lines: list[RenderableType] = [Text(f"  {sentence}", style="dim") for sentence in self._learnt]
        lines.append(Text(self._stage, style="bold"))
        if self._what:
            done = "" if self._fraction is None else f" ({self._fraction:.0%})"
            self._spinner.update(text=Text(self._what + done))
            lines.append(self._spinner)
        if self._best:
            lines.append(Text(f"best so far: {self._best}", style="green"))
        lines.append(self._clock())
        return Group(*lines)

    def _clock(self) -> RenderableType:
        from rich.columns import Columns
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        spent = time.monotonic() - self._began
        if not self._budget:
            return Text(f"{format_seconds(round(spent))} so far", style="dim")
        left = self._budget - spent
        words = f"{format_seconds(round(left))} left of {format_seconds(self._budget)}" if left > 0 else "the budget is spent: finishing"
        bar = ProgressBar(total=self._budget, completed=min(spent, self._budget), width=30)
        return Columns([bar, Text(words, style="dim")])
