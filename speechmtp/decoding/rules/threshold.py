"""Acceptance by a threshold on the trunk's probability."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.chances import along, log_chance
from speechmtp.decoding.rules.contract import NodewiseRule
from speechmtp.types import Draft


@dataclass(frozen=True)
class Threshold(NodewiseRule):
    """x stays while the trunk's probability of it (`measure` `token`), or of the whole path up to it (`product`), is at
    least `theta`: the second gate of Saon et al., arXiv 2603.11243, applied to each token."""

    name: ClassVar[str] = "threshold"
    theta: Annotated[float, Range(0, 1)] = 0.2
    measure: Literal["token", "product"] = "token"

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """Products are taken along the path from the base token to the node."""
        chance = log_chance(target, draft)
        if self.measure == "product":
            chance = along(chance, draft)
        return (chance.exp() >= self.theta) & (draft.tokens >= 0)
