"""A training that is killed with -9 goes on to the same weights, whatever it was in the middle of."""

from __future__ import annotations

from pathlib import Path

import pytest
from worker_tasks import prune_digits, search_digits

from hasten.core.errors import WorkerError
from hasten.measure.worker import run

pytest.importorskip("torch_pruning")


@pytest.mark.slow
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_pruning_that_is_killed_twice_gives_the_weights_of_one_that_is_not(bfloat16: bool, tmp_path: Path) -> None:
    whole = run("prune", prune_digits, tmp_path / "whole", None, bfloat16)
    for saves in (2, 3):  # between the cuts, and after the last of them
        with pytest.raises(WorkerError, match="SIGKILL"):
            run("prune", prune_digits, tmp_path / "killed", saves, bfloat16)
    assert run("prune", prune_digits, tmp_path / "killed", None, bfloat16) == whole
    assert run("prune", prune_digits, tmp_path / "again", None, bfloat16) == whole


@pytest.mark.slow
def test_an_architecture_search_that_is_killed_on_two_rungs_gives_the_weights_of_one_that_is_not(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    whole = run("search", search_digits, tmp_path / "whole", None)
    for saves in (3, 30):
        with pytest.raises(WorkerError, match="SIGKILL"):
            run("search", search_digits, tmp_path / "killed", saves)
    assert run("search", search_digits, tmp_path / "killed", None) == whole
