"""Acceptance by the distance between token ids, for codes that have an order."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.contract import NodewiseRule
from speechmtp.decoding.state import Draws
from speechmtp.types import Draft


@dataclass(frozen=True)
class Distance(NodewiseRule):
    """x stays if its id is at most `most` away from that of the trunk's argmax token (Stern et al., arXiv 1811.03115,
    section 5.2); for codes that have an order."""

    name: ClassVar[str] = "distance"
    most: Annotated[int, Range(0, 1 << 20)] = 1
    draws: ClassVar[Draws] = "shared"

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """Compared with the argmax token after the node's parent."""
        choice = target.argmax(-1).gather(1, draft.parent + 1)
        return ((choice - draft.tokens).abs() <= self.most) & (draft.tokens >= 0)
