"""A least number of accepted tokens a call."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.types import Draft


@dataclass(frozen=True)
class MinBlock(GreedyMatch):
    """The first `least` drafted tokens of a call stay whatever they are, then greedy match (Stern et al., section
    5.3)."""

    name: ClassVar[str] = "min-block"
    least: Annotated[int, Range(1)] = 1
    exact: ClassVar[bool] = False

    def matches(self, best: Tensor, draft: Draft) -> Tensor:
        """Not deep, or the trunk's choice."""
        return super().matches(best, draft) | ((draft.depth < self.least) & (draft.tokens >= 0))
