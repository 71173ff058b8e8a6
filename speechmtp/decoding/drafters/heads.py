"""Drafts from multi-token heads: the likeliest token of every depth, one chain a row."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from speechmtp.decoding.drafters.contract import empty_draft
from speechmtp.decoding.state import DecodeState
from speechmtp.heads.contract import Unembed
from speechmtp.types import Draft, chain_draft


@dataclass(frozen=True)
class HeadChain:
    """Up to `depth` tokens; with `theta` a row stops drafting before the first depth whose confidence falls
    below it: the token's own probability (`token`) or the product of all so far (`product`)
    (Raj et al. 2024, arXiv 2409.08148)."""

    depth: int
    theta: float | None = None
    measure: Literal["token", "product"] = "token"
    heads: bool = True
    source: str | None = None

    def start(self, state: DecodeState, sources: list[list[int]] | None) -> None:
        """No state of its own: the heads have theirs."""

    def propose(self, state: DecodeState) -> Draft:
        """Nothing at the prompt's call, where the heads have seen no trunk state yet."""
        if not state.prompted or self.depth == 0:
            return empty_draft(state)
        logits = self._logits(state)
        best = logits.max(-1)
        assert state.heads is not None
        tokens = state.heads.token_ids(best.indices)
        if self.theta is None:
            return chain_draft(tokens)
        confidence = (best.values - logits.logsumexp(-1)).exp()
        measured = confidence if self.measure == "token" else confidence.cumprod(1)
        sure = (measured >= self.theta).long().cumprod(1).bool()
        return chain_draft(tokens.masked_fill(~sure, -1), confidence)

    def _logits(self, state: DecodeState) -> Tensor:
        """Logits [B, depth, V]; conditioned families get each depth's choice before the next."""
        heads = state.heads
        assert heads is not None
        unembed: Unembed = state.head_state.unembed
        if heads.one_pass:
            return heads.all_logits(heads.all_features(state.head_state), unembed)
        tokens = state.base_tokens()[:, None]
        parent = torch.zeros_like(tokens)
        rows: list[Tensor] = []
        for d in range(1, self.depth + 1):
            rows.append(heads.logits(heads.expand(state.head_state, d, tokens, parent), d, unembed))
            tokens = heads.token_ids(rows[-1].argmax(-1))
        return torch.cat(rows, 1)

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Nothing to learn."""
