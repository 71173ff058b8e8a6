"""k-SEQ: verification of several siblings sampled from one distribution."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from speechmtp.decoding.rules.contract import probs_of
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.residuals import ratio, residual
from speechmtp.decoding.rules.siblings import elders, stops
from speechmtp.errors import ConfigError
from speechmtp.types import Draft


@dataclass(frozen=True)
class KSeq(Ratio):
    """k-SEQ (Sun et al., SpecTr, arXiv 2310.15141): each of the k children of a node, all sampled from one q with
    replacement, stays with probability min(1, p(x) / (rho q(x))); rho is the smallest value that leaves no probability
    negative. On a chain this is `Ratio`. ConfigError if siblings were not sampled in this way."""

    name: ClassVar[str] = "k-seq"
    instead_on_trees: ClassVar[str] = "ratio"

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """`stop` and `follow` of the whole draft; the nodes of a row may have different numbers of children."""
        if draft.chain:
            return super().distributions(target, draft)
        left = probs_of(target)
        chance = left.new_zeros(draft.tokens.shape)
        older = elders(draft)
        at = ((draft.tokens >= 0) & ~older.any(-1)).nonzero(as_tuple=True)  # the first child of each parent
        if not len(at[0]):
            return stops(chance, draft), left
        q = self._common_proposal(draft, older, left.dtype)
        row, above = at[0], draft.parent[at] + 1
        siblings = (draft.parent[row] == draft.parent[at][:, None]) & (draft.tokens[row] >= 0)
        p, q = left[row, above], q[at]
        rho, rest = self._scale(p, q, siblings.sum(1))
        scaled = p / rho[:, None]
        which, child = siblings.nonzero(as_tuple=True)
        token = draft.tokens[row[which], child]
        chance[row[which], child] = ratio(scaled[which], q[which], token)[0].clamp_max(1.0)
        left[row, above] = rest
        return stops(chance, draft), left

    def _common_proposal(self, draft: Draft, older: Tensor, dtype: torch.dtype) -> Tensor:
        """The distributions [B, P, V] of the nodes; ConfigError if they differ between siblings."""
        where = "k-seq: siblings"
        if draft.q is None:
            raise ConfigError(f"{where} that were not drawn, expected draws with replacement; use sample-match")
        first = older.long().argmax(-1)  # any node for those without elders, where it is not used
        rows = torch.arange(len(first), device=first.device)[:, None]
        other = (draft.q != draft.q[rows, first]).any(-1) & older.any(-1) & (draft.tokens >= 0)
        if bool(other.any()):
            raise ConfigError(f"{where} drawn from different distributions, expected draws with replacement; use ratio")
        return draft.q.to(dtype)

    def _scale(self, p: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest valid rho [N] by bisection, and the distribution [N, V] after k [N] refused children.

        What is left is p - c min(q, p / rho), where c is the expected number of children tested. It is nowhere negative
        if and only if rho >= c (where p = q, rho is 1).
        """
        low, high = torch.ones_like(p[:, 0]), k.to(p.dtype)
        for _ in range(50):
            middle = (low + high) / 2
            valid = middle >= self._looked_at(p, q, middle, k)[0]
            low, high = torch.where(valid, low, middle), torch.where(valid, middle, high)
        looked_at, kept = self._looked_at(p, q, high, k)
        return high, residual(p, looked_at[:, None] * kept, p, torch.ones_like(p[:, :1], dtype=torch.bool))

    def _looked_at(self, p: Tensor, q: Tensor, rho: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """The expected number [N] of children tested, and min(q, p / rho) [N, V]."""
        kept = torch.minimum(q, p / rho[:, None])
        beta = kept.sum(-1).clamp_max(1.0)
        some = -torch.expm1(k * torch.log1p(-beta))
        return torch.where(beta > 0, some / beta.clamp_min(torch.finfo(p.dtype).tiny), k.to(p.dtype)), kept
