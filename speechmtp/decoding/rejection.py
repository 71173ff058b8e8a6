"""Rules that compare the trunk's law with the law a token was drawn from, and keep the trunk's: R1, R2, R4, R5."""

from typing import ClassVar

import torch
from torch import Tensor

from speechmtp.decoding.acceptance import AcceptanceRule, GreedyMatch, law_of
from speechmtp.decoding.state import Draws
from speechmtp.types import Draft


class Ratio(AcceptanceRule):
    """Rejection sampling (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318), siblings included.

    A child x, drawn from q, of a node behind which r is left of the trunk's law stays with probability
    min(1, r(x) / q(x)); else r becomes norm(r - q)+ and the next sibling is asked. Where nothing was drawn q is one-hot:
    x stays with r(x), and r loses x.
    """

    exact = True
    draws: ClassVar[Draws] = "own"

    def undrawn(self) -> AcceptanceRule:
        """Dividing by a temperature of 0 is comparing first choices."""
        return GreedyMatch()

    def law(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """The whole law; siblings are asked in the order in which they were drafted."""
        left = law_of(target)
        if draft.chain:
            return self._chain_law(left, draft)
        left = left.clone()
        rows, size = draft.tokens.shape
        stay = left.new_ones(rows, size + 1)  # that nothing behind a slot was accepted yet
        reach = torch.cat([left.new_ones(rows, 1), left.new_zeros(rows, size)], 1)
        index = torch.arange(rows, device=left.device)
        for node in range(size):
            above, token = draft.parent[:, node] + 1, draft.tokens[:, node]
            q = None if draft.q is None else draft.q[:, node]
            chance, left[index, above] = self._compare(left[index, above], q, token)
            reach[:, node + 1] = reach[index, above] * stay[index, above] * chance
            stay[index, above] = stay[index, above] * (1 - chance)
        return reach * stay, left

    def _chain_law(self, law: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """The same without siblings, all nodes at once."""
        chance, rest = self._compare(law[:, :-1], draft.q, draft.tokens)
        reach = torch.cat([law.new_ones(len(law), 1), chance.cumprod(1)], 1)
        stay = torch.cat([1 - chance, law.new_ones(len(law), 1)], 1)
        return reach * stay, torch.cat([rest, law[:, -1:]], 1)

    def _compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """Chance [..] that `token` [..] (-1: absent) stays, and what is left of r [.., V] if it does not."""
        x = token.clamp_min(0)[..., None]
        if q is None:
            q = torch.zeros_like(r).scatter_(-1, x, 1.0)
        q, tiny = q.to(r.dtype), torch.finfo(r.dtype).tiny
        r_x, q_x = r.gather(-1, x), q.gather(-1, x)
        possible = (q_x > 0) & (token >= 0)[..., None]  # what cannot have been drawn never stays and takes nothing away
        chance = torch.where(possible, (r_x / q_x.clamp_min(tiny)).clamp_max(1.0), 0.0)[..., 0]
        rest = (r - q).clamp_min(0.0)
        total = rest.sum(-1, keepdim=True)
        # Nothing left by rounding: x could not have been refused, and r does as well.
        return chance, torch.where(possible & (total > 0), rest / total.clamp_min(tiny), r)


class SampleMatch(Ratio):
    """Draw the trunk's token and keep what equals it, whatever the draft was drawn from: in law, a one-hot draft."""

    draws: ClassVar[Draws] = "best"

    def _compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        return super()._compare(r, None, token)
