"""Scores of drafted tokens from the trunk's logits: log probabilities, their sums along paths, and entropy."""

import torch
from torch import Tensor

from speechmtp.types import Draft


def entropy(probs: Tensor) -> Tensor:
    """Sum of p log(1 / p) over the last axis, in nats."""
    return torch.special.entr(probs).sum(-1)


def log_chance(target: Tensor, draft: Draft) -> Tensor:
    """The trunk's log probability [B, P] of each drafted token after its parent; any value for absent tokens."""
    target = target.to(torch.promote_types(target.dtype, torch.float32))
    return logit_of(target, draft) - target.logsumexp(-1).gather(1, draft.parent + 1)


def along(values: Tensor, draft: Draft) -> Tensor:
    """Sums [B, P] of `values` [B, P] over the path from the root to each node."""
    if draft.chain:
        return values.cumsum(1)
    return torch.where(draft.ancestors, values[:, None], 0.0).sum(-1)


def logit_of(target: Tensor, draft: Draft) -> Tensor:
    """The trunk's logit [B, P] of each drafted token; any value for absent tokens."""
    rows = torch.arange(len(target), device=target.device)[:, None]
    return target[rows, draft.parent + 1, draft.tokens.clamp_min(0)]
