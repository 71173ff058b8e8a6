"""Drafts by the trunk's joint distribution of the next tokens (multi-token joint decoding; Qin et al. 2024, arXiv
2407.09722): a reference for small vocabularies, at one trunk call per level of the tree of all continuations."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, empty_draft
from speechmtp.decoding.drafters.paths import (
    Paths,
    check_size,
    children,
    log_probs_of,
    logits_behind,
    prefixes_behind,
    tree_sizes,
    up_to_end,
)
from speechmtp.decoding.sampling import pick_tokens
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Request, chain_draft


@dataclass(frozen=True)
class Joint(Drafter):
    """Draft the most probable continuation of `depth` tokens under their joint distribution, among all continuations or
    those made of the `top` most probable tokens after each node; an end token ends it. To be accepted as it is
    (`KeepDraft`).

    When tokens are sampled, the draft is a sample of the joint distribution, which is the same as sampling token by
    token, so that no tree is needed. In a mixed batch its trunk calls run over all rows.
    """

    depth: Annotated[int, Range(0, MAX_DRAFT)] = 2
    top: Annotated[int | None, Range(1)] = 8
    name: ClassVar[str] = "joint"

    def check(self, trunk: Trunk, heads: HeadSet | None, request: Request) -> None:
        """Raise ConfigError if the tree would be too large."""
        check_size("joint", self.depth, self.top, trunk.vocab_size)

    def propose(self, state: DecodeState) -> Draft:
        """Draft one chain per row."""
        depth = self.depth if state.limits is None else min(self.depth, max(state.limits))
        if depth == 0:
            return empty_draft(state)
        if state.noise is not None and state.draws != "best":
            state.count_trunk_drafts(range(depth))
            return self._drawn(state, depth)
        state.count_trunk_drafts(tree_sizes(depth, self.top, state.batch.trunk.vocab_size))
        return chain_draft(up_to_end(self._likeliest(state, depth)[state.places], state.ends))

    def _likeliest(self, state: DecodeState, depth: int) -> Tensor:
        """The most probable path [B, depth] of every row of the batch."""
        batch, pending = state.batch, state.batch.pending(depth)
        width = min(self.top or batch.trunk.vocab_size, batch.trunk.vocab_size)
        paths = Paths.none(len(batch.rows), state.device)
        score = torch.zeros(len(batch.rows), 1, dtype=torch.float32, device=state.device)
        for d in range(1, depth + 1):
            log_probs = log_probs_of(
                state, batch.rows,
                logits_behind(batch.trunk, batch.cache, pending, paths, batch.ahead, batch.rules), paths.ends,
            )  # fmt: skip
            best = log_probs.topk(width, -1)
            score = (score[..., None] + best.values).flatten(1)
            tokens, above = best.indices.flatten(1), children(log_probs.shape[1], width, log_probs)
            if d < depth:
                paths = paths.grow(tokens, above)
        rows, at = torch.arange(len(score), device=score.device), score.argmax(1)
        return torch.cat([paths.ends[rows, above[rows, at]], tokens[rows, at][:, None]], 1)

    def _drawn(self, state: DecodeState, depth: int) -> Draft:
        """Sample a chain token by token."""
        batch, places = state.batch, torch.tensor(state.places, device=state.device)
        pending = batch.pending(depth)
        paths, found = Paths.none(len(batch.rows), state.device), []
        for d in range(1, depth + 1):
            logits = logits_behind(batch.trunk, batch.cache, pending, paths, batch.ahead, batch.rules)[places]
            prefixes = prefixes_behind(state.rows, paths.ends[places])
            found.append(pick_tokens(state, logits, None, d, prefixes, d - 1))
            token = found[-1].tokens[..., 0]
            whole = token.new_zeros(len(batch.rows), 1).index_copy(0, places, token)
            paths = paths.grow(whole, torch.zeros_like(whole))
        q = [choice.q[:, :, 0] for choice in found if choice.q is not None]
        confidence = torch.cat([choice.confidence[..., 0] for choice in found], 1)
        tokens = up_to_end(paths.ends[places, 0], state.ends)
        return chain_draft(tokens, confidence, torch.cat(q, 1) if q else None)
