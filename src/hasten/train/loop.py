"""The training loop: small, repeatable to the bit from a seed, and able to go on after a kill."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..core.errors import NotPossibleHere
from .batches import Batch

if TYPE_CHECKING:
    import torch
    from torch import nn

Loss = Callable[["nn.Module", Batch], "torch.Tensor"]
"""The mean loss of a batch, a scalar that gradients flow from."""

Progress = Callable[[float, float], None]
"""Hears the share that is done, 0..1, and the loss."""


class Feed(Protocol):
    """What is trained on: so many batches an epoch, which can be repeated from any of them on. `Batches` is one."""

    def __len__(self) -> int: ...

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number`, from batch `start` on."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train. epochs: passes over the data; learning_rate: at its highest, after `warm_up` (a share of all steps) and before a
    half cosine to zero (Loshchilov & Hutter 2017, arXiv:1608.03983); weight_decay: AdamW's (arXiv:1711.05101), of matrices and filters
    alone; clip: largest norm of all gradients together; accumulate: batches a step; ema: decay of the averaged weights that are the
    result, 0 for none; bfloat16: products in bfloat16 where the processor has it; checkpoint_seconds: between checkpoints."""

    epochs: int
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warm_up: float = 0.05
    clip: float = 5.0
    accumulate: int = 1
    ema: float = 0.0
    bfloat16: bool = False
    checkpoint_seconds: float = 20.0
    seed: int = 0


def fit(
    module: nn.Module, batches: Feed, loss: Loss, plan: Plan, *, checkpoint: Path | None = None, tell: Progress | None = None
) -> list[float]:
    """Train `module` in place. Returns the mean loss of each epoch.

    checkpoint: a file that a killed training goes on from, to the same bits; gone when it is done. Raises NotPossibleHere where
    the loss is no longer finite. Pictures are trained on with their channels last in memory, which convolutions are fastest with.
    """
    import torch

    run = _Run(in_memory(module, torch.channels_last), batches, loss, plan)
    if checkpoint is not None and checkpoint.is_file():
        run.load(checkpoint)
    saved = time.monotonic()
    while run.step < run.total:
        run.one()
        if tell is not None:
            tell(run.step / run.total, run.last)
        if checkpoint is not None and time.monotonic() - saved >= plan.checkpoint_seconds and run.step < run.total:
            run.save(checkpoint)
            saved = time.monotonic()
    run.finish()
    in_memory(module, torch.contiguous_format)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return run.losses


def in_memory(module: nn.Module, order: torch.memory_format) -> nn.Module:
    """The module, the weights of its two-dimensional convolutions in that order in memory, in place. No number changes."""
    with_depth = any(p.ndim == 5 for p in module.parameters())  # has an order of its own
    return module if with_depth else module.to(memory_format=order)  # type: ignore[call-overload]


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write `state` in one step: a kill in the middle leaves what was there before."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save(state, temporary)
    temporary.replace(path)


class _Run:
    """The state of a training between two steps."""

    def __init__(self, module: nn.Module, batches: Feed, loss: Loss, plan: Plan) -> None:
        import torch

        self.module, self.batches, self.loss, self.plan = module, batches, loss, plan
        self.each = max(1, len(batches) // plan.accumulate)
        self.total = plan.epochs * self.each
        self.step, self.last, self.losses = 0, math.nan, [0.0] * plan.epochs
        trained = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},  # biases and norms have no reason to be small
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=plan.learning_rate)
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()} if plan.ema else {}
        self._batches: Any = None

    def one(self) -> None:
        """One step of the optimiser."""
        import torch

        self.module.train()
        epoch, place = divmod(self.step, self.each)
        if self._batches is None or place == 0:
            self._batches = self.batches.epoch(epoch, place * self.plan.accumulate)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * _schedule(self.step, self.total, self.plan.warm_up)
        total = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.plan.seed * 1_000_003 + self.step)  # dropout must not depend on where a training was resumed
            for _ in range(self.plan.accumulate):
                with torch.autocast("cpu", torch.bfloat16, enabled=self.plan.bfloat16):
                    value = self.loss(self.module, next(self._batches)) / self.plan.accumulate
                torch.autograd.backward(value)
                total += float(value.detach())
        if not math.isfinite(total):
            where = f"training, step {self.step + 1} of {self.total}"
            raise NotPossibleHere(where, "must keep a finite loss", got=total, hint="Lower the learning rate")
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.plan.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses[epoch] += total / self.each
        self.step, self.last = self.step + 1, total
        self._update_average()

    def save(self, path: Path) -> None:
        """All of the state."""
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "average": self.average,
                 "step": self.step, "losses": self.losses}  # fmt: skip
        save(state, path)

    def load(self, path: Path) -> None:
        """What `save` wrote; a file that cannot be read counts as if it never was."""
        import pickle

        import torch

        try:
            state = torch.load(path, weights_only=True)
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError):
            return
        self.average, self.step, self.losses = state["average"], state["step"], state["losses"]

    def finish(self) -> None:
        """The averaged weights are the result, where there are any; the module evaluates."""
        if self.average:
            self.module.load_state_dict(self.average)
        self.module.eval()

    def _update_average(self) -> None:
        if not self.average:
            return
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))  # the first steps count for little: they are far away
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1 - decay)
            else:
                self.average[name].copy_(value)


def _schedule(step: int, total: int, warm_up: float) -> float:
    """The share of the highest learning rate at `step` of `total`."""
    first = max(1, round(warm_up * total))
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, total - first)))
