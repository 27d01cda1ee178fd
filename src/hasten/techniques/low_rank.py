"""A large layer becomes two thin ones, where its outputs need fewer directions than it has."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..core.candidate import Candidate, Floor
from ..core.errors import NotPossibleHere
from ..core.seams import Context, Forecast, Profile, Technique, option
from ..train.fold import fold_norms
from ..train.loop import Plan
from ..train.student import Student, cannot_train

if TYPE_CHECKING:
    from torch import Tensor, nn

_BATCHES = 8  # whose activations tell which directions matter
_SAVES = 0.85  # of a layer's products at most: a second operator costs time of its own


@dataclass(frozen=True, kw_only=True)
class LowRank(Technique):
    """Convolutions and linear layers as two: into the directions in which their outputs vary most, and back (Zhang et al. 2015,
    arXiv:1505.06798, section 3.1: the outputs' principal components, not the weights' singular vectors, which do not know the data). Then
    all is trained with the original as its teacher.

    A layer is left as it is where two would not save enough products. How much time is won, the search measures.
    """

    name: ClassVar[str] = "low-rank"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    forbids: ClassVar[frozenset[str]] = frozenset({"low-rank", "sparse-weights"})  # its training would fill the zeros
    adds: ClassVar[frozenset[str]] = frozenset({"low-rank"})
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    energy: float = option(0.95, "Share of the variance of a layer's outputs that is kept.", choices=(0.95, 0.9), low=0.01, high=1.0)
    min_weights: int = option(
        65536, "Smaller layers stay as they are: their time is not that of their products. ResNet-20, 42 % smaller, was not faster.",
        low=1,
    )  # fmt: skip
    round_to: int = option(8, "Ranks are multiples of it: what the kernels of runtimes like.", choices=(8,), low=1)
    epochs: int = option(10, "Passes over the train split afterwards.", choices=(10,), low=0)
    learning_rate: float = option(5e-4, "At its highest.", low=0.0)
    alpha: float = option(0.7, "The teacher's share of the loss; the labels have the rest.", low=0.0, high=1.0)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return cannot_train(profile, "torch")

    def expects(self, profile: Profile) -> Forecast:
        gain = 1 + 2 * (1 - self.energy)
        return Forecast(speedup=gain, seconds=profile.training_seconds(self.epochs), smaller=gain, risk=1 - self.energy)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        student = Student.taught_in(context, candidate, alpha=self.alpha)
        fold_norms(student.module)
        parted = 0
        for name, (mean, covariance) in _spreads(student, self.min_weights).items():
            thin = self._thin(student.module.get_submodule(name), mean, covariance)
            if thin is not None:
                student.module.add_submodule(name, thin)
                parted += 1
        if not parted:
            hint = "Its layers are small, or need most of their directions"
            raise NotPossibleHere(
                f"technique {self.name}", f"found no layer that {self.energy:.0%} of the variance makes cheaper", hint=hint
            )
        student.notes.append(f"parted {parted} layers in two")
        student.learn(Plan(epochs=self.epochs, learning_rate=self.learning_rate, seed=context.seed))
        return candidate.then(self.step(), student.export(context.folder), adds=self.adds, lossless=False, notes=student.notes)

    def _thin(self, layer: nn.Module, mean: Tensor, covariance: Tensor) -> nn.Module | None:
        """Two layers for one, or None where they would not be cheaper. mean, covariance: of its outputs, [O] and [O, O]."""
        import torch

        powers, directions = torch.linalg.eigh(covariance)
        powers, directions = powers.flip(0).clamp_min(0), directions.flip(1)
        kept = powers.cumsum(0) / powers.sum().clamp_min(1e-30)
        needed = int((kept < self.energy).sum()) + 1
        rank = -(-needed // self.round_to) * self.round_to
        outputs, inputs = len(layer.weight), layer.weight[0].numel()  # type: ignore[arg-type,index]
        if rank * (inputs + outputs) > _SAVES * inputs * outputs:
            return None
        return two_layers(layer, mean.float(), directions[:, :rank].float())


def two_layers(layer: Any, mean: Tensor, directions: Tensor) -> nn.Module:
    """The layer whose outputs, less their mean [O], are projected on orthonormal directions [O, R], as two layers."""
    import torch
    from torch import nn

    outputs, rank = directions.shape
    bias = layer.bias.detach() if layer.bias is not None else torch.zeros(outputs)
    first = directions.T @ layer.weight.detach().reshape(outputs, -1)
    if isinstance(layer, nn.Linear):
        into: Any = nn.Linear(layer.in_features, rank, bias=False)
        back: Any = nn.Linear(rank, outputs)
    else:
        into = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False)
        back = nn.Conv2d(rank, outputs, 1)
    into.weight.data = first.reshape(rank, *layer.weight.shape[1:]).contiguous()
    back.weight.data = directions.reshape(back.weight.shape).contiguous()
    back.bias.data = directions @ (directions.T @ (bias - mean)) + mean
    return nn.Sequential(into, back)


def _spreads(student: Student, min_weights: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean [O] and covariance [O, O] of the outputs of each layer that could be parted, over a few batches."""
    import torch

    sums: dict[str, list[Any]] = {}
    layers = _layers(student.module, min_weights)
    if not layers:
        return {}
    hooks = [layer.register_forward_hook(_adder(sums.setdefault(name, [0, 0.0, 0.0]))) for name, layer in layers]
    with torch.no_grad():
        for batch in itertools.islice(student.batches.epoch(0), _BATCHES):
            student.module.eval()(*batch.inputs)
    for hook in hooks:
        hook.remove()
    found = {}
    for name, (count, total, products) in sums.items():
        mean = total / count
        found[name] = (mean, products / count - torch.outer(mean, mean))
    return found


def _layers(module: nn.Module, min_weights: int) -> list[tuple[str, nn.Module]]:
    from torch import nn

    could = ((n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1))
    return [(name, layer) for name, layer in could if layer.weight.numel() >= min_weights]


def _adder(sums: list[Any]) -> Any:
    """A hook that adds up a layer's outputs and their products."""

    def add(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        channels = output.movedim(1, -1) if layer.weight.ndim == 4 else output
        rows = channels.reshape(-1, channels.shape[-1]).double()
        sums[0] += len(rows)
        sums[1] = sums[1] + rows.sum(0)
        sums[2] = sums[2] + rows.T @ rows

    return add
