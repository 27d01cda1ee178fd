"""Whole channels, heads and neurons that matter least are cut out, and the rest learns to do without them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..core.candidate import Candidate, Floor
from ..core.errors import NotPossibleHere
from ..core.need import need
from ..core.seams import Context, Forecast, Profile, Technique, option
from ..train.loop import Plan
from ..train.student import Student, cannot_train

if TYPE_CHECKING:
    from torch import fx, nn

_SHARES = (0.3, 0.5, 0.7)
_BATCHES = 8  # whose gradients tell what matters
_TRIES = 12  # bisection steps towards the share of parameters


@dataclass(frozen=True, kw_only=True)
class StructuredPruning(Technique):
    """A smaller dense model, faster in every runtime. What hangs together through additions, normalisations and concatenations is found
    by Torch-Pruning (Fang et al. 2023, arXiv:2301.12900) and cut together; layers compete for their channels (global pruning). Then it
    is trained with the original as its teacher (Hinton et al. 2015, arXiv:1503.02531).
    """

    name: ClassVar[str] = "structured-pruning"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    forbids: ClassVar[frozenset[str]] = frozenset({"channels-pruned"})
    adds: ClassVar[frozenset[str]] = frozenset({"channels-pruned"})
    packages: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")

    share: float = option(0.5, "Share of the parameters that is cut.", choices=_SHARES, low=0.01, high=0.95)
    importance: str = option(
        "taylor", "What matters: taylor (weight times gradient, Molchanov et al. 2019, arXiv:1906.10771) or magnitude (L2).",
        choices=("taylor",), allowed=("taylor", "magnitude"),
    )  # fmt: skip
    round_to: int = option(8, "Widths are multiples of it: what the kernels of runtimes like.", choices=(8,), low=1)
    epochs: int = option(10, "Passes over the train split after the cut.", choices=(10,), low=0)
    learning_rate: float = option(1e-3, "At its highest.", low=0.0)
    alpha: float = option(0.7, "The teacher's share of the loss; the labels have the rest.", low=0.0, high=1.0)

    @classmethod
    def space(cls, profile: Profile) -> Iterator[Self]:
        """The middle share first."""
        return iter(sorted(super().space(profile), key=lambda t: abs(t.share - 0.5)))

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return cannot_train(profile, "torch", "torch_pruning")

    def expects(self, profile: Profile) -> Forecast:
        # Half the MACs of a ResNet-50 give 1.35x and not 2x (Torch-Pruning's own figures): time falls more slowly than operations.
        return Forecast(speedup=(1 - self.share) ** -0.6, seconds=30.0 + self.epochs * profile.epoch_seconds, smaller=1 / (1 - self.share))

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        student = Student.taught_in(context, candidate, alpha=self.alpha)
        student.module = self._cut(student)
        student.learn(Plan(epochs=self.epochs, learning_rate=self.learning_rate, seed=context.seed))
        return candidate.then(self.step(), student.export(context.folder), adds=self.adds, lossless=False)

    def _cut(self, student: Student) -> fx.GraphModule:
        """The module with about `share` of its parameters gone: channel ratios are tried on copies until it fits."""
        import copy

        import torch

        module, low, high = student.module, 0.0, 1.0
        full, best = _count(module), None
        gradients = _gradients(student) if self.importance == "taylor" else {}
        for _ in range(_TRIES):
            ratio = (low + high) / 2
            tried = copy.deepcopy(module)
            for name, parameter in tried.named_parameters():
                parameter.grad = gradients[name].clone() if name in gradients else torch.zeros_like(parameter)
            self._prune(tried, student, ratio)
            gone = 1 - _count(tried) / full
            if best is None or abs(gone - self.share) < abs(best[0] - self.share):
                best = (gone, tried)
            low, high = (ratio, high) if gone < self.share else (low, ratio)
        assert best is not None
        if best[0] < 0.5 * self.share:
            hint = "Its widths may be fixed by reshapes, or round_to may be too large for them"
            raise NotPossibleHere(
                f"technique {self.name}", f"must be able to cut {self.share:.0%} of the parameters", got=f"{best[0]:.0%}", hint=hint
            )
        best[1].zero_grad(set_to_none=True)
        return best[1]

    def _prune(self, module: fx.GraphModule, student: Student, ratio: float) -> None:
        pruning = need("torch_pruning", why="to prune")

        kinds = {"taylor": pruning.importance.GroupTaylorImportance, "magnitude": pruning.importance.GroupMagnitudeImportance}
        example = student.example()
        pruner = pruning.pruner.BasePruner(
            module.eval(), example, importance=kinds[self.importance](), global_pruning=True, pruning_ratio=ratio, max_pruning_ratio=0.9,
            round_to=self.round_to, ignored_layers=_fixed(module),
        )  # fmt: skip
        pruner.step()


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _gradients(student: Student) -> dict[str, Any]:
    """Of the loss over a few batches, by parameter."""
    import itertools

    import torch

    module = student.module.eval()
    module.zero_grad(set_to_none=True)
    for batch in itertools.islice(student.batches.epoch(0), _BATCHES):
        torch.autograd.backward(student.loss(module, batch))
    found = {name: p.grad.detach().clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def _fixed(module: fx.GraphModule) -> list[nn.Module]:
    """The layers whose width something else counts on: the outputs, and reshapes that name their sizes (attention's heads)."""
    frontier = [n for n in module.graph.nodes if n.op == "output" or _names_sizes(n)]
    found, seen = [], set(frontier)
    while frontier:
        for source in frontier.pop().all_input_nodes:
            if source in seen:
                continue
            seen.add(source)
            layer = module.get_submodule(str(source.target)) if source.op == "call_module" else None
            if layer is not None and hasattr(layer, "weight"):
                found.append(layer)
            if layer is None or not (hasattr(layer, "in_features") or hasattr(layer, "in_channels")):
                frontier.append(source)  # what has no width of its own has that of what is before it
    return found


def _names_sizes(node: Any) -> bool:
    """Whether the node reshapes to sizes that are written in the graph."""
    return node.op == "call_function" and any(word in str(node.target) for word in (".view", ".reshape", ".unflatten", ".expand"))
