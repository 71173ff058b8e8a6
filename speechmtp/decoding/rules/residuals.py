"""Ratios and residuals of two distributions: p, that of the trunk, and q, that of the drafted token."""

import torch
from torch import Tensor


def one_hot(like: Tensor, token: Tensor) -> Tensor:
    """One-hot distributions at `token` [..], in the shape of `like` [.., V]; an absent token (-1) counts as token 0."""
    return torch.zeros_like(like).scatter_(-1, token.clamp_min(0)[..., None], 1.0)


def ratio(p: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
    """p / q at `token` [..], and whether q (None: one-hot) can have produced the token, bool [..]. The ratio is 0 where
    it cannot, or where the token is absent."""
    x = token.clamp_min(0)[..., None]
    p_x = p.gather(-1, x)[..., 0]
    if q is None:
        possible = token >= 0
        return torch.where(possible, p_x, 0.0), possible
    q_x = q.gather(-1, x)[..., 0].to(p.dtype)
    possible = (q_x > 0) & (token >= 0)
    return torch.where(possible, p_x / q_x, 0.0), possible


def residual(p: Tensor, q: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """norm(p - q)+ [.., V] at `where` [.., 1], and `other` elsewhere. If rounding leaves nothing of p - q, it is
    `other` too: the drafted token cannot have been refused there."""
    rest = (p - q).clamp_min_(0.0)
    total = rest.sum(-1, keepdim=True)
    return torch.where(where & (total > 0), rest / total, other)
