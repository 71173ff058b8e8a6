"""The two thresholds of SGLang."""

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
    """SGLang's rule for its two thresholds: with one coin a node, a child stays if its probability is at least `single`
    or the coin is at most that of it and its elder siblings, over `acc`. Exact at 1 and 1 only."""

    name: ClassVar[str] = "thresholds"
    single: Annotated[float, Range(0, 1, above=True)] = 0.5
    acc: Annotated[float, Range(0, 1, above=True)] = 0.5

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """At 1 and 1 it is `SampleMatch`."""
        return self.single == 1 and self.acc == 1

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """What is left of the trunk's distribution has lost the refused children and is drawn from as it is."""
        stop, left = super().distributions(target, draft)
        total = left.sum(-1, keepdim=True)
        return stop, torch.where(total > 0, left / total.clamp_min(torch.finfo(left.dtype).tiny), probs_of(target))

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """What is missing from the sum of `r` are the elder siblings' probabilities."""
        here, x = token >= 0, token.clamp_min(0)[..., None]
        p = r.gather(-1, x)[..., 0]
        before = (1 - r.sum(-1)).clamp_min(0.0)
        low, high = ((value / self.acc).clamp_max(1.0) for value in (before, before + p))
        chance = torch.where(low < 1, (high - low) / (1 - low).clamp_min(torch.finfo(r.dtype).tiny), 1.0)
        chance = torch.where(p >= self.single, 1.0, chance)
        rest = torch.where(here[..., None], r.scatter(-1, x, 0.0), r)
        return torch.where(here, chance, 0.0), rest
