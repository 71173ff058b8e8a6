"""A minimum number of accepted tokens per call."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.types import Draft


@dataclass(frozen=True)
class MinBlock(GreedyMatch):
    """The first `least` drafted tokens of a call always stay, later ones by greedy match (Stern et al., arXiv
    1811.03115, section 5.3)."""

    name: ClassVar[str] = "min-block"
    least: Annotated[int, Range(1, MAX_DRAFT)] = 1
    exact: ClassVar[bool] = False

    def matches(self, best: Tensor, draft: Draft) -> Tensor:
        """Whether each node is among the first `least` on its path, or is the trunk's argmax token: bool [B, P]."""
        return super().matches(best, draft) | ((draft.depth < self.least) & (draft.tokens >= 0))
