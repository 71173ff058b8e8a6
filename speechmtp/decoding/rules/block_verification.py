"""Block verification: a chain is verified as a whole."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from speechmtp.decoding.rules.contract import probs_of, tree_refused
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.residuals import one_hot, ratio, residual
from speechmtp.types import Draft


@dataclass(frozen=True)
class BlockVerification(Ratio):
    """Block verification (Sun et al., arXiv 2403.10444): all tokens of a chain are verified together; in expectation it
    never keeps fewer of them than `Ratio`. ConfigError for a tree."""

    name: ClassVar[str] = "block"
    instead_on_trees: ClassVar[str] = "ratio"

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """With P_i the running product of p / q, capped at 1, node i is the last one kept with probability h_i if no
        later one was. ConfigError for a tree."""
        if not draft.chain:
            raise tree_refused(self)
        probs = probs_of(target)
        ones = probs.new_ones(len(probs), 1)
        q = one_hot(probs[:, :-1], draft.tokens) if draft.q is None else draft.q.to(probs.dtype)
        steps, _ = ratio(probs[:, :-1], draft.q, draft.tokens)
        products = [ones[:, 0]]
        for step in steps.unbind(1):
            products.append((products[-1] * step).clamp_max(1.0))
        product = torch.stack(products, 1)
        more = torch.cat([draft.tokens >= 0, torch.zeros_like(ones, dtype=torch.bool)], 1)  # a drafted token follows
        scaled, q = product[..., None] * probs, torch.cat([q, torch.zeros_like(probs[:, :1])], 1)
        surplus = (scaled - q).clamp_min(0.0).sum(-1)
        whole = surplus + (1 - product)
        last = torch.where(whole > 0, surplus / whole.clamp_min(torch.finfo(probs.dtype).tiny), 1.0)
        last = torch.where(more, last, product)
        beyond = torch.cat([(1 - last[:, 1:]).flip(1).cumprod(1).flip(1), ones], 1)
        return torch.cat([ones, last[:, 1:]], 1) * beyond, residual(scaled, q, probs, more[..., None])
