"""Drafts from multi-token heads: one token of every depth, one chain per row."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, empty_draft
from speechmtp.decoding.layout import path_prefixes
from speechmtp.decoding.noise import TARGET
from speechmtp.decoding.sampling import PickedTokens, pick_tokens
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.kernels.cpu.chain import Drawn
from speechmtp.types import Draft, chain_draft


@dataclass(frozen=True)
class HeadChain(Drafter):
    """Draft up to `depth` tokens. With `theta` a row stops before the first depth whose confidence is below it: the
    token's own probability (`measure` `token`, or None) or the product of all so far (`product`) (Raj et al. 2024,
    arXiv 2409.08148). If that token was sampled for a ratio rule, it is kept and ends the draft: dropping it because it
    is improbable would bias the output."""

    depth: Annotated[int, Range(0, MAX_DRAFT)] = 7
    theta: Annotated[float | None, Range(0, 1)] = None
    measure: Literal["token", "product"] | None = None
    name: ClassVar[str] = "head-chain"
    heads: ClassVar[bool] = True
    gives_probabilities: ClassVar[bool] = True
    adapts: ClassVar[bool] = True

    def start(self, state: DecodeState) -> dict[str, int]:
        """The depth at which the host first checks whether any row still drafts."""
        return {"look": self.depth}

    def propose(self, state: DecodeState) -> Draft:
        """Draft one chain per row; nothing in the prompt's call, where the heads have no trunk state yet."""
        depth = self.depth if state.limits is None else min(self.depth, max(state.limits))
        if not state.prompted or depth == 0:
            return empty_draft(state)
        chosen = self._chosen(state, depth)
        tokens, confidence = chosen.tokens[..., 0], chosen.confidence[..., 0]
        q = None if chosen.q is None else chosen.q[..., 0, :]
        if self.theta is not None:
            sure = self._sure(confidence)
            if state.noise is not None and state.draws == "own":
                sure = torch.cat([torch.ones_like(sure[:, :1]), sure[:, :-1]], 1)
            tokens = tokens.masked_fill(~sure, -1)
        return chain_draft(tokens, confidence, q)

    def _sure(self, confidence: Tensor) -> Tensor:
        """bool [B, D]: whether a row drafts this depth, which it does while the confidence reaches `theta` at every
        depth so far."""
        measured = confidence.cumprod(1) if self.measure == "product" else confidence
        return (measured >= (self.theta or 0)).long().cumprod(1).bool()

    def _chosen(self, state: DecodeState, depth: int) -> PickedTokens:
        """Choices for `depth` nodes. Heads that read drafted tokens get the choice of each depth before the next; with
        `theta` they usually stop soon after the longest draft of the batch."""
        heads, mine = state.heads, state.head_state
        assert heads is not None
        if heads.one_pass and not state.reads_prefix:
            logits = state.step.levels(heads, mine, depth)
            steps = torch.arange(1, depth + 1, device=logits.device)
            return pick_tokens(state, logits, heads.shortlist, steps, lambda: [])
        way = _at_once(state, depth)
        if way is not None:
            asked = state.base_tokens(), depth, self.theta, self.measure == "product"
            drafted = state.step.draft(heads, mine, *asked, *way)
            if drafted is not None:
                return PickedTokens(drafted[0][..., None], drafted[1][..., None])
        found: list[PickedTokens] = []

        def take(logits: Tensor, d: int) -> Tensor:
            drafted = [choice.tokens[..., 0] for choice in found]
            found.append(pick_tokens(state, logits, heads.shortlist, d, lambda: _last_prefix(state, drafted), d - 1))
            return found[-1].tokens[..., 0]

        base = state.base_tokens()[:, None]
        # Drafts tend to end at about the same depth as last time, so the host checks once, there.
        look = depth if self.theta is None else min(depth, state.drafter_state["look"])
        state.step.chain(heads, mine, base, look, 0, take)
        if self.theta is not None:
            lengths = self._sure(_confidence(found)).sum(1).tolist()
            longest = max(lengths)
            if longest == look < depth:
                state.step.chain(heads, mine, found[-1].tokens[..., 0], depth, look, take)
            else:  # keep one token after the longest draft: the first one below theta
                del found[longest + 1 :]
            state.drafter_state["look"] = min(self.depth, longest + 2)
        q = [choice.q for choice in found if choice.q is not None]
        return PickedTokens(
            torch.cat([choice.tokens for choice in found], 1), torch.cat([choice.confidence for choice in found], 1),
            torch.cat(q, 1) if q else None,
        )  # fmt: skip


def _at_once(state: DecodeState, depth: int) -> tuple[Drawn | None] | None:
    """How heads may draft a whole chain in one call: the likeliest tokens (None), or how they are drawn. None if they
    may not."""
    if not state.processes and (state.noise is None or state.draws == "best"):
        return (None,)
    heads, simple = state.heads, (1.0, 0) if state.processors is None else state.processors.simple
    own = any(row.request.processors for row in state.rows)
    if heads is None or heads.native is None or simple is None or own:
        return None
    if state.noise is None or state.draws != "shared" or state.batch.recorded.overlap:
        return None
    index = state.base_index[:, None] + torch.arange(depth, device=state.device)
    return (Drawn(state.noise.gumbel(index, state.batch.trunk.vocab_size, TARGET), *simple),)


def _confidence(found: list[PickedTokens]) -> Tensor:
    return torch.cat([choice.confidence[..., 0] for choice in found], 1)


def _last_prefix(state: DecodeState, drafted: list[Tensor]) -> list[list[list[int]]]:
    """The tokens before the next token of each row's chain."""
    draft = chain_draft(torch.cat(drafted, 1)) if drafted else empty_draft(state)
    return [row[-1:] for row in path_prefixes([row.prefix for row in state.rows], draft)]
