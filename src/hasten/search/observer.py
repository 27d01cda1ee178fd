"""Who wants to know what the search is doing. Library code never prints; it tells an observer."""

from __future__ import annotations


class Observer:
    """Told what happens, as it happens. The default does nothing; override what you want to hear."""

    def stage(self, name: str, why: str) -> None:
        """A new part of the work begins."""

    def trying(self, what: str, why: str, fraction: float | None = None) -> None:
        """One step of it begins, or is `fraction` (0 to 1) done."""

    def learnt(self, sentence: str) -> None:
        """What a step taught."""

    def best(self, sentence: str) -> None:
        """The best answer so far has changed."""

    def warn(self, sentence: str) -> None:
        """Something that a person should know."""

    def budget(self, seconds: float) -> None:
        """The search starts now and has so long."""
