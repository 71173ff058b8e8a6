"""Multi-token distributions without heads: the trunk's own, with the tokens in between summed out (Mehra et al., arXiv
2502.09419).

p(x_{t+1+d} | x_<=t) = sum over paths x_{t+1}..x_{t+d} of p(path | x_<=t) p(x_{t+1+d} | x_<=t, path). Exact over the
whole vocabulary, with V^d tree nodes; with `top` each node keeps its m most probable tokens, renormalised, which makes
m^d nodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, empty_draft
from speechmtp.decoding.drafters.paths import Paths, check_size, children, logits_behind, prefixes_behind, tree_sizes
from speechmtp.decoding.sampling import pick_tokens
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.cache import RaggedCache
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Prompt, Request, TokenRules, chain_draft


@dataclass(frozen=True)
class Marginal(Drafter):
    """Draft the token after the base token by the trunk's own distribution, and `depth` - 1 further ones by their
    marginal distributions, which do not depend on each other's tokens: the best that independent heads can reach. A
    draft costs `depth` trunk calls, which run over all rows of a mixed batch."""

    depth: Annotated[int, Range(0, MAX_DRAFT)] = 2
    top: Annotated[int | None, Range(1)] = 8
    name: ClassVar[str] = "marginal"
    gives_probabilities: ClassVar[bool] = True

    def check(self, trunk: Trunk, heads: HeadSet | None, request: Request) -> None:
        """Raise ConfigError if the tree would be too large."""
        check_size("marginal", self.depth, self.top, trunk.vocab_size)

    def propose(self, state: DecodeState) -> Draft:
        """Draft one chain per row."""
        depth = self.depth if state.limits is None else min(self.depth, max(state.limits))
        if depth == 0:
            return empty_draft(state)
        batch = state.batch
        distributions = next_probs(
            batch.trunk, batch.cache, batch.pending(depth), depth - 1, self.top, batch.ahead, batch.rules
        )[state.places]  # fmt: skip
        state.count_trunk_drafts(tree_sizes(depth, self.top, batch.trunk.vocab_size))
        ends, found = torch.zeros(len(distributions), 1, 0, dtype=torch.long, device=distributions.device), []
        for d in range(depth):
            prefixes = prefixes_behind(state.rows, ends)
            found.append(pick_tokens(state, distributions[:, d : d + 1].log(), None, d + 1, prefixes, d))
            ends = torch.cat([ends, found[-1].tokens], 2)
        q = [choice.q[:, :, 0] for choice in found if choice.q is not None]
        confidence = torch.cat([choice.confidence[..., 0] for choice in found], 1)
        return chain_draft(ends[:, 0], confidence, torch.cat(q, 1) if q else None)


def marginal_probs(trunk: Trunk, cache: RaggedCache, pending: Prompt, depth: int, top: int | None = None) -> Tensor:
    """Marginal distributions [B, depth, V] of x_{t+1+d} for d = 1..depth, where t is each row's last pending entry.

    `pending` are the entries that the next call would feed after the committed ones of `cache`: the prompt, or the base
    token. Nothing is committed. `top` is m (None: the whole vocabulary); the total variation error at depth 1 is at
    most 1 minus the mass of the m tokens. ConfigError for a negative depth or a `top` below 1.
    """
    if depth == 0 and (top is None or top > 0):
        return pending.embeddings.new_zeros(len(pending.lengths), 0, trunk.vocab_size)
    return next_probs(trunk, cache, pending, depth, top)[:, 1:]


@torch.no_grad()
def next_probs(
    trunk: Trunk, cache: RaggedCache, pending: Prompt, depth: int, top: int | None = None,
    ahead: Callable[[int], Tensor] | None = None, rules: Sequence[TokenRules] = (),
) -> Tensor:  # fmt: skip
    """As `marginal_probs`, preceded by the trunk's own distribution of x_{t+1}: [B, depth + 1, V], at one trunk call
    per distribution. ConfigError for a negative depth or a `top` below 1."""
    if depth < 0 or (top is not None and top < 1):
        raise ConfigError(f"marginal: depth={depth} and top={top}, expected depth from 0 and top from 1")
    width = trunk.vocab_size if top is None else min(top, trunk.vocab_size)
    paths = Paths.none(len(pending.lengths), pending.embeddings.device)
    weights = pending.embeddings.new_ones(len(pending.lengths), 1)
    distributions: list[Tensor] = []
    for d in range(depth + 1):
        below = logits_behind(trunk, cache, pending, paths, ahead, rules).softmax(-1)
        distributions.append((weights[..., None] * below).sum(1))
        if d < depth:
            best = below.topk(width, -1)
            paths = paths.grow(best.indices.flatten(1), children(below.shape[1], width, below))
            weights = (weights[..., None] * best.values / best.values.sum(-1, keepdim=True)).flatten(1)
    return torch.stack(distributions, 1)
