"""Greedy match: the trunk's own argmax tokens stay."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from speechmtp.decoding.rules.contract import ArgmaxRule
from speechmtp.types import Draft


@dataclass(frozen=True)
class GreedyMatch(ArgmaxRule):
    """Keep the longest path of tokens that are the trunk's argmax. Exact in greedy decoding and, with the trunk's noise
    added to its logits, for plain sampling with the same seed (Daliri et al., arXiv 2408.07978)."""

    name: ClassVar[str] = "match"
    exact: ClassVar[bool] = True

    def matches(self, choices: Tensor, draft: Draft) -> Tensor:
        """Whether each node is the argmax token after its parent: bool [B, P], false for absent nodes."""
        return (choices[:, :-1] if draft.chain else choices.gather(1, draft.parent + 1)) == draft.tokens
