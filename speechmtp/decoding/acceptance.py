"""Acceptance rules as laws over (how much of a draft is kept, what follows it).

`law(target, draft)` gives `stop` [B, P + 1], the probability that the base token (slot 0) or node i (slot
i + 1) is the last one kept, and `follow` [B, P + 1, V], the law of the next token there. Deterministic
rules give one-hot laws; `settle` picks from them.
"""

from typing import Protocol

import torch
from torch import Tensor

from speechmtp.types import Accepted, Draft


class AcceptanceRule(Protocol):
    """A pure rule; `exact` ones follow the trunk's own law."""

    @property
    def exact(self) -> bool:
        """Whether output follows the trunk's own law."""

    def law(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """`stop` [B, P + 1] and `follow` [B, P + 1, V] for target logits [B, P + 1, V]."""


def _one_hot_best(target: Tensor) -> Tensor:
    return torch.zeros_like(target).scatter_(-1, target.argmax(-1, keepdim=True), 1.0)


def _stop_at_deepest(kept: Tensor, draft: Draft) -> Tensor:
    """One-hot stop at the deepest node whose whole path is `kept` [B, P]; the base token if there is none."""
    rows, size = kept.shape
    stop = torch.zeros(rows, size + 1, device=kept.device, dtype=torch.float64)
    if draft.chain:
        return stop.scatter_(1, kept.long().cumprod(1).sum(1, keepdim=True), 1.0)
    depth = torch.zeros(rows, size + 1, dtype=torch.long, device=kept.device)
    index = torch.arange(rows, device=kept.device)
    alive = torch.ones(rows, size + 1, dtype=torch.bool, device=kept.device)
    for node in range(size):
        above = draft.parent[:, node] + 1
        alive[:, node + 1] = kept[:, node] & alive[index, above]
        depth[:, node + 1] = torch.where(alive[:, node + 1], depth[index, above] + 1, 0)
    return stop.scatter_(1, depth.argmax(1, keepdim=True), 1.0)  # ties: the first, as drafted


class GreedyMatch:
    """Keep the longest path of tokens that are the trunk's own first choice; exact for greedy decoding."""

    exact = True

    def law(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """One-hot laws."""
        best = target.argmax(-1)
        kept = (best.gather(1, draft.parent + 1) == draft.tokens) & (draft.tokens >= 0)
        return _stop_at_deepest(kept, draft), _one_hot_best(target)


class KeepDraft:
    """Keep every drafted token without looking: the drafter alone decides what to draft; lossy."""

    exact = False

    def law(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """One-hot laws."""
        return _stop_at_deepest(draft.tokens >= 0, draft), _one_hot_best(target)


def settle(stop: Tensor, follow: Tensor, draft: Draft) -> Accepted:
    """Pick the likeliest outcome of both laws: the thin function that all rules share."""
    last = stop.argmax(1)  # 0: the base token
    token = follow.argmax(-1).gather(1, last[:, None])[:, 0]
    if draft.chain:
        steps = torch.arange(draft.tokens.shape[1], device=last.device).expand_as(draft.tokens)
        return Accepted(steps.masked_fill(steps >= last[:, None], -1), last, token)
    path, count = _paths_to(last - 1, draft)
    return Accepted(path, count, token)


def _paths_to(node: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
    """Node indices from the root to `node` [B] (-1: none), padded with -1, and their number."""
    rows, size = draft.tokens.shape
    path = torch.full((rows, size), -1, device=node.device)
    count = torch.zeros(rows, dtype=torch.long, device=node.device)
    for row in range(rows):
        chain, at = [], int(node[row])
        while at >= 0:
            chain.append(at)
            at = int(draft.parent[row, at])
        count[row] = len(chain)
        path[row, : len(chain)] = torch.tensor(chain[::-1], dtype=torch.long, device=node.device)
    return path, count
