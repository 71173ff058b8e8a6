"""Rejection sampling: a drafted token stays by the ratio of the trunk's probability to the drafter's."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.decoding.rules.contract import AcceptanceRule, probs_of
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.residuals import one_hot, ratio, residual
from speechmtp.decoding.rules.siblings import behind, families, family_stops
from speechmtp.decoding.state import Draws
from speechmtp.types import Draft


@dataclass(frozen=True)
class Ratio(AcceptanceRule):
    """Rejection sampling (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318), extended to siblings.

    Let r be what is left of the trunk's distribution after a node. A child x that was sampled from q stays with
    probability min(1, r(x) / q(x)); otherwise r becomes norm(r - q)+ and the next sibling is tested. If nothing was
    sampled, q is one-hot: x stays with probability r(x), otherwise r loses x.
    """

    name: ClassVar[str] = "ratio"
    exact: ClassVar[bool] = True
    draws: ClassVar[Draws] = "own"

    def greedy(self) -> AcceptanceRule:
        """`GreedyMatch`, which this rule becomes at temperature 0."""
        return GreedyMatch()

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """`stop` and `follow` of the whole draft; siblings are tested in the order in which they were drafted."""
        left = probs_of(target)
        if draft.chain or not draft.tokens.shape[1]:
            chance, rest = self.compare(left[:, :-1], draft.q, draft.tokens)
            stop = F.pad(chance.cumprod(1), (1, 0), value=1.0) * F.pad(1 - chance, (0, 1), value=1.0)
            return stop, torch.cat([rest, left[:, -1:]], 1)
        slots, children = families(draft)
        flat, size = children.clamp_min(0).flatten(1), left.shape[-1]
        token = torch.where(children < 0, -1, draft.tokens.gather(1, flat).view_as(children))
        q = None if draft.q is None else behind(draft.q, flat).view(*children.shape, size)
        r, chances = behind(left, slots), []
        for turn in range(children.shape[2]):  # all first children, then all second ones, ..
            chance, r = self.compare(r, None if q is None else q[:, :, turn], token[:, :, turn])
            chances.append(chance)
        left = left.scatter(1, slots[..., None].expand_as(r), r)
        return family_stops(torch.stack(chances, -1), slots, children, draft), left

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """The probability [..] that `token` [..] (-1: absent) stays, and what is left of `r` [.., V] if it does not."""
        chance, possible = ratio(r, q, token)
        q = one_hot(r, token) if q is None else q.to(r.dtype)
        return chance.clamp_max(1.0), residual(r, q, r, possible[..., None])
