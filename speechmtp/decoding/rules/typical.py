"""Typical acceptance."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.chances import entropy, log_chance
from speechmtp.decoding.rules.contract import NodewiseRule, probs_of
from speechmtp.types import Draft


@dataclass(frozen=True, kw_only=True)
class Typical(NodewiseRule):
    """Typical acceptance (Cai et al., Medusa, arXiv 2401.10774): x stays if p(x) > min(epsilon, delta exp(-H(p))). It
    stays even if a token that was not drafted is more probable."""

    name: ClassVar[str] = "typical"
    epsilon: Annotated[float, Range(0, 1, above=True)] = 0.09
    delta: Annotated[float, Range(0, above=True)] = 0.3

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """The comparison is made in logarithms."""
        floor = (math.log(self.delta) - entropy(probs_of(target))).clamp_max(math.log(self.epsilon))
        return (log_chance(target, draft) > floor.gather(1, draft.parent + 1)) & (draft.tokens >= 0)
