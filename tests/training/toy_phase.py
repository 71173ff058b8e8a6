"""A phase of a few numbers: a line fitted to points, so that the loop alone is tested."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechmtp.training.optim import OptimConfig


class ToyPhase:
    """Least squares on batches of 1 to 4 points; `spoil` names micro-batches whose loss is not finite."""

    def __init__(self, steps: int = 6, spoil: Iterable[int] = (), **optim: Any) -> None:
        torch.manual_seed(0)
        self.name, self.steps = "toy", steps
        self.optim = OptimConfig(**({"lr": 0.05, "warmup": 1} | optim))
        self.module: nn.Module = nn.ModuleDict({"line": nn.Linear(3, 1), "unused": nn.Linear(2, 2)})
        self.spoil = set(spoil)
        self.score: Callable[[nn.Module], float] = lambda module: float(module["line"].weight.square().sum())
        self.seen: list[int] = []

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        return ((p, 1.0) for p in self.module.parameters())

    def batch(self, number: int) -> tuple[int, Tensor]:
        self.seen.append(number)
        rng = torch.Generator().manual_seed(number)
        return number, torch.randn(1 + number % 4, 3, generator=rng)

    def weight(self, batch: tuple[int, Tensor]) -> float:
        return float(len(batch[1]))

    def loss(self, batch: tuple[int, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        number, points = batch
        kept = torch.rand(points.shape) > 0.2  # a random draw, as dropout is
        loss = (self.module["line"](points * kept).sum(1) - points.sum(1) - 1).square().sum()
        if number in self.spoil:
            loss = loss * float("nan")
        return loss, {"twice": 2 * float(loss.detach())}

    def evaluate(self) -> dict[str, float]:
        assert not self.module.training
        return {"score": self.score(self.module)}


def weights(phase: ToyPhase) -> dict[str, Tensor]:
    """A copy of the module's state."""
    return {k: v.clone() for k, v in phase.module.state_dict().items()}


def checkpoint_names(folder: Path) -> list[str]:
    """Names of what looks like a checkpoint."""
    return sorted(p.name for p in folder.glob("ckpt-*"))
