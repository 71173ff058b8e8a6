"""Optimiser, schedule and weight averaging."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from speechmtp.errors import ConfigError


@dataclass(frozen=True)
class OptimConfig:
    """Options of AdamW and its learning-rate schedule.

    `lr` is the peak learning rate, reached after `warmup` updates. The schedule `wsd` (warmup-stable-decay) decays over
    the last share `decay` of the updates. `clip` is the largest gradient norm, `accumulate` the number of micro-batches
    per update, and `ema` the decay of the moving average of the weights.
    """

    lr: float = 1e-3
    warmup: int = 300
    schedule: Literal["wsd", "cosine"] = "wsd"
    decay: float = 0.2
    final: float = 0.02  # last learning rate as a share of the peak
    betas: tuple[float, ...] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 5.0
    accumulate: int = 1
    ema: float = 0.999

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.accumulate < 1 or not 0 <= self.ema < 1 or not 0 <= self.decay <= 1:
            raise ConfigError(f"optim: lr > 0, accumulate >= 1, 0 <= ema < 1, 0 <= decay <= 1 expected, found {self}")
        if len(self.betas) != 2:
            raise ConfigError(f"optim: betas {self.betas}, expected two numbers")


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of update `step` (counted from 0) of `steps`."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "cosine":
        done = min(1.0, max(0, step - config.warmup) / max(1, steps - config.warmup))
        share = config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * done))
    else:
        left = (steps - step) / max(1.0, config.decay * steps)
        share = config.final + (1 - config.final) * min(1.0, left)
    return config.lr * warm * share


def make_optimiser(parameters: Iterable[tuple[nn.Parameter, float]], config: OptimConfig) -> torch.optim.AdamW:
    """Build AdamW over (parameter, learning-rate factor) pairs, without weight decay for vectors and scalars."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter, factor in parameters:
        groups.setdefault((factor, parameter.dim() > 1), []).append(parameter)
    settings = [
        {"params": members, "factor": factor, "weight_decay": config.weight_decay if matrix else 0.0}
        for (factor, matrix), members in groups.items()
    ]
    first, second = config.betas
    return torch.optim.AdamW(settings, lr=config.lr, betas=(first, second), eps=1e-8)


class Ema:
    """Exponential moving average of a module's state, with a smaller decay in the first updates."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Update the average with the module's state after update `step` (counted from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients to a total norm of at most `limit`; returns the norm before scaling."""
    return nn.utils.clip_grad_norm_(parameters, limit)
