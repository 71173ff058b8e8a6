"""Acceptance of the trunk's k most probable tokens."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.chances import logit_of
from speechmtp.decoding.rules.contract import NodewiseRule
from speechmtp.types import Draft


@dataclass(frozen=True)
class TopK(NodewiseRule):
    """x stays if it is among the trunk's `k` most probable tokens (Stern et al., arXiv 1811.03115, section 5.1)."""

    name: ClassVar[str] = "top-k"
    k: Annotated[int, Range(1)] = 2

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """Ties with the k-th token stay; tokens with a logit of -inf do not."""
        kth = target.topk(min(self.k, target.shape[-1]), -1).values[..., -1]
        chance = logit_of(target, draft)
        return (chance >= kth.gather(1, draft.parent + 1)) & (chance > -math.inf) & (draft.tokens >= 0)
