"""Acceptance by SGLang's two thresholds."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.contract import probs_of
from speechmtp.decoding.rules.sample_match import SampleMatch
from speechmtp.types import Draft


@dataclass(frozen=True)
class Thresholds(SampleMatch):
    """SGLang's rule with two thresholds. One uniform number is drawn per node; a child stays if its probability is at
    least `single`, or if the number is at most the summed probability of the child and its elder siblings, divided by
    `acc`. Exact only if both are 1."""

    name: ClassVar[str] = "thresholds"
    single: Annotated[float, Range(0, 1, above=True)] = 0.5
    acc: Annotated[float, Range(0, 1, above=True)] = 0.5

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether both thresholds are 1, where the rule is `SampleMatch`."""
        return self.single == 1 and self.acc == 1

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """The token that follows is sampled from the trunk's distribution without the refused children,
        renormalised."""
        stop, left = super().distributions(target, draft)
        total = left.sum(-1, keepdim=True)
        return stop, torch.where(total > 0, left / total.clamp_min(torch.finfo(left.dtype).tiny), probs_of(target))

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of `r` is less than 1 by the probabilities of the elder siblings."""
        here, x = token >= 0, token.clamp_min(0)[..., None]
        p = r.gather(-1, x)[..., 0]
        before = (1 - r.sum(-1)).clamp_min(0.0)
        low, high = ((value / self.acc).clamp_max(1.0) for value in (before, before + p))
        chance = torch.where(low < 1, (high - low) / (1 - low).clamp_min(torch.finfo(r.dtype).tiny), 1.0)
        chance = torch.where(p >= self.single, 1.0, chance)
        rest = torch.where(here[..., None], r.scatter(-1, x, 0.0), r)
        return torch.where(here, chance, 0.0), rest
