"""Drafts the most probable of several beams of a draft model (multi-token assisted decoding; Qin et al. 2024, arXiv
2407.09722)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import empty_draft
from speechmtp.decoding.drafters.model import ByModel, DraftCache
from speechmtp.decoding.drafters.paths import Paths, ends_text, log_probs_of, logits_behind, up_to_end
from speechmtp.decoding.noise import DRAFT
from speechmtp.decoding.sampling import Processors, SamplingConfig
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.types import Draft, chain_draft


@dataclass(frozen=True)
class BeamSample(ByModel):
    """Draft the most probable of `width` beams of the draft model, up to `depth` tokens. `confidence` holds the
    probabilities of its tokens under the (processed) distribution of the draft model.

    When tokens are sampled, each step samples the beams to keep, without replacement, by their probability under
    distributions truncated to `top_k` tokens and `top_p` of the mass (0 and 1: not truncated); otherwise this is beam
    search. A beam ends with an end token. Beams share one cache in which only emitted tokens are committed: each step
    feeds the whole tree again.
    """

    depth: Annotated[int, Range(0, MAX_DRAFT)] = 4
    width: Annotated[int, Range(1, 64)] = 4
    top_k: Annotated[int, Range(0)] = 10
    top_p: Annotated[float, Range(0, 1, above=True)] = 0.9
    name: ClassVar[str] = "beams"
    gives_probabilities: ClassVar[bool] = True

    @cached_property
    def _cut(self) -> Processors | None:
        return SamplingConfig(temperature=1.0, top_k=self.top_k, top_p=self.top_p).processors()

    def propose(self, state: DecodeState) -> Draft:
        """Draft one chain per row."""
        depth = self.depth if state.limits is None else min(self.depth, max(state.limits))
        if depth == 0:
            return empty_draft(state)
        mine: DraftCache = state.drafter_state
        logits, pending = mine.catch_up(state), mine.behind(depth)
        paths, index = Paths.none(len(state.rows), state.device), torch.arange(len(state.rows), device=state.device)
        score = torch.zeros(len(state.rows), 1, device=state.device)
        chances = score[..., None][..., :0]  # probabilities of each beam's tokens [B, n, d]
        for d in range(1, depth + 1):
            log_probs = log_probs_of(state, state.rows, logits, paths.ends)
            picks, score = self._step(state, log_probs, score, d)
            above, tokens = picks // log_probs.shape[2], picks % log_probs.shape[2]
            chance = log_probs.flatten(1).gather(1, picks).exp()
            chances = torch.cat([chances[index[:, None], above], chance[..., None]], 2)
            paths = paths.grow(tokens, above)
            best = score.argmax(1)
            if d == depth or bool(ends_text(paths.ends[index, best, -1], state.ends).all()):
                break
            logits = logits_behind(mine.trunk, mine.cache, pending, paths, mine.ahead, state.rules)
            state.count_draft_calls()
        return chain_draft(up_to_end(paths.ends[index, best], state.ends), chances[index, best])

    def _step(self, state: DecodeState, log_probs: Tensor, score: Tensor, d: int) -> tuple[Tensor, Tensor]:
        """Choose `width` of all continuations [B, n * V]: their indices and their scores, [B, width] each."""
        nodes, size = log_probs.shape[1:]
        drawn = state.noise is not None and state.draws != "best"
        if drawn and self._cut is not None:
            log_probs = self._cut(log_probs, lambda: []).log_softmax(-1)
        total = (score[..., None] + log_probs).flatten(1)
        ranked = total
        if drawn:
            assert state.noise is not None
            # Nodes number the noise: -1 is the base token, then come all beams level by level.
            first = -1 if d == 1 else (d - 2) * self.width
            node = torch.arange(first, first + nodes, device=log_probs.device)
            noise = state.noise.gumbel(state.base_index[:, None].expand(-1, nodes), size, DRAFT, node)
            ranked = total + noise.flatten(1).to(total.dtype)
        picks = ranked.topk(min(self.width, ranked.shape[1]), 1).indices
        return picks, total.gather(1, picks)
