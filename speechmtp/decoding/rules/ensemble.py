"""Sampling from a mixture of the trunk's and the drafter's distributions."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.contract import AcceptanceRule, probs_of
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.residuals import one_hot
from speechmtp.decoding.rules.siblings import elders
from speechmtp.errors import ConfigError
from speechmtp.types import Draft


@dataclass(frozen=True)
class Ensemble(Ratio):
    """`Ratio` with w p + (1 - w) q in place of p, where w is `weight` and q the distribution of a node's first child.
    Every token for which there was a draft follows this mixture; the token after a fully accepted draft follows p."""

    name: ClassVar[str] = "ensemble"
    needs_probabilities: ClassVar[bool] = True
    weight: Annotated[float, Range(0, 1)] = 0.8
    exact: ClassVar[bool] = False

    def greedy(self) -> AcceptanceRule:
        """Raise ConfigError: at temperature 0 there is no mixture to sample from."""
        raise ConfigError(
            "ensemble: temperature 0, expected one above 0; the rule mixes two distributions to draw from"
        )

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """Those of `Ratio` with the mixture as the target."""
        mixed = probs_of(target).clone()
        at = ((draft.tokens >= 0) & ~elders(draft).any(-1)).nonzero(as_tuple=True)
        above = (at[0], draft.parent[at] + 1)
        p = mixed[above]
        q = one_hot(p, draft.tokens[at]) if draft.q is None else draft.q[at].to(p.dtype)
        mixed[above] = self.weight * p + (1 - self.weight) * q
        return super().distributions(mixed.log(), draft)
