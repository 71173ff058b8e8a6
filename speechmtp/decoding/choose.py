"""How drafted tokens are chosen from a drafter's logits, once for all drafters.

Where the trunk takes its first choice, so does the drafter. Where tokens are drawn, drafts are drawn by the trunk's own
noise (seeded coupling), by noise of their own (ratio rules, which need the distribution they were drawn from), or not
at all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechmtp.decoding.noise import DRAFT, TARGET
from speechmtp.decoding.processors import Prefixes
from speechmtp.decoding.state import DecodeState


@dataclass(frozen=True)
class Choice:
    """`tokens` [B, N, k] of N nodes, likeliest first; `confidence` [B, N, k] under the (processed) distribution they
    are from; `q` [B, N, k, V] the distribution that each was drawn from with its elder siblings taken out, or None."""

    tokens: Tensor
    confidence: Tensor
    q: Tensor | None = None


def choose(
    state: DecodeState, logits: Tensor, ids: Tensor | None, level: Tensor | int, prefixes: Prefixes, first: int = 0,
    k: int = 1,
) -> Choice:  # fmt: skip
    """The best `k` tokens, or as many draws without replacement, behind each of N nodes.

    `logits` [B, N, V'] are over all tokens, or over those in `ids` [V']. `level` (or [N]) is the depth of the drafted
    tokens, 1 right behind the base token; `first` the number of the first node, so that every node has its own noise;
    `prefixes` gives what stands before each.
    """
    if state.processors is None and (state.noise is None or state.draws == "best"):
        best = logits.topk(k, -1) if k > 1 else logits.max(-1, keepdim=True)
        confidence = (best.values - logits.logsumexp(-1, keepdim=True)).exp()
        return Choice(best.indices if ids is None else ids[best.indices], confidence)
    logits = _spread(logits, ids, state.batch.trunk.vocab_size)
    if state.processors is not None:
        logits = state.processors(logits, prefixes)
    if state.noise is None or state.draws == "best":
        tokens = logits.topk(k, -1).indices
        return Choice(tokens, logits.softmax(-1).gather(-1, tokens))
    steps = torch.as_tensor(level, device=logits.device).expand(logits.shape[1])
    drawn = state.base_index[:, None]
    size = logits.shape[-1]
    if state.draws == "shared":
        noise = state.noise.gumbel(drawn + steps - 1, size, TARGET)
    else:
        nodes = torch.arange(first, first + logits.shape[1], device=logits.device)
        noise = state.noise.gumbel(drawn.expand(-1, logits.shape[1]), size, DRAFT, nodes - 1)
    tokens = (logits + noise.to(logits.dtype)).topk(k, -1).indices
    probs = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    confidence = probs.gather(-1, tokens)
    if state.draws == "shared" and not state.batch.recorded.overlap:
        return Choice(tokens, confidence)
    return Choice(tokens, confidence, _without_elders(probs, tokens))


def _spread(logits: Tensor, ids: Tensor | None, size: int) -> Tensor:
    """Logits over the whole vocabulary; what cannot be drafted has none."""
    if ids is None:
        return logits
    whole = logits.new_full((*logits.shape[:-1], size), -torch.inf)
    return whole.index_copy(-1, ids, logits)


def _without_elders(probs: Tensor, tokens: Tensor) -> Tensor:
    """Distributions [B, N, k, V] of draws without replacement: each knows that those before it are taken."""
    distributions = [probs]
    for j in range(tokens.shape[-1] - 1):
        left = distributions[-1].scatter(-1, tokens[..., j : j + 1], 0.0)
        distributions.append(left / left.sum(-1, keepdim=True).clamp_min(torch.finfo(left.dtype).tiny))
    return torch.stack(distributions, -2)
