"""Shared cores are noticed, waited for, and not for ever."""

from __future__ import annotations

import os

from hasten.measure.cores import SHARED, settled, slowdown


def test_one_thread_has_nobody_to_share_with() -> None:
    assert slowdown(1) == 1.0


def test_more_threads_than_cores_can_serve_slow_each_other_down() -> None:
    assert slowdown(8 * (os.cpu_count() or 1)) > SHARED


def test_a_block_waits_until_cores_are_its_own() -> None:
    seen, pauses = [2.0, 1.9, 1.05], []

    def probe(threads: int) -> float:
        assert threads == 2
        return seen.pop(0)

    assert settled(2, 10.0, probe=probe, pause=pauses.append) == 1.05
    assert len(pauses) == 2


def test_patience_ends_and_tells_what_it_found() -> None:
    pauses: list[float] = []
    assert settled(2, 3.0, probe=lambda threads: 1.7, pause=pauses.append) == 1.7
    assert sum(pauses) == 3.0
