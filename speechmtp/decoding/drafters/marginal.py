"""Multi-token laws without heads: the trunk's own intermediate tokens summed out (Mehra et al., arXiv 2502.09419).

p(x_{t+1+d} | x_<=t) = sum over paths x_{t+1}..x_{t+d} of p(path | x_<=t) p(x_{t+1+d} | x_<=t, path). Exact over the
whole vocabulary at V^d tree nodes; with `top` each node keeps its likeliest m tokens, renormalised, at m^d nodes.
"""

import torch
from torch import Tensor

from speechmtp.errors import ConfigError
from speechmtp.models.cache import RaggedCache
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, ancestors_of


@torch.no_grad()
def marginal_laws(trunk: Trunk, cache: RaggedCache, pending: Prompt, depth: int, top: int | None = None) -> Tensor:
    """Marginal laws [B, depth, V] of x_{t+1+d} for d = 1..depth, t being each row's last pending entry.

    `pending` are the entries behind the committed ones of `cache` that the next call would feed: the prompt, or the
    base token. Nothing is committed. `top` is m (None: the whole vocabulary); the total-variation error of depth 1 is
    at most 1 - the mass of the m tokens. ConfigError for a negative depth or a `top` below 1.
    """
    if depth < 0 or (top is not None and top < 1):
        raise ConfigError(f"marginal: depth {depth} and top {top}, expected depth from 0 and top from 1")
    rows, size = len(pending.lengths), trunk.vocab_size
    if depth == 0:
        return pending.embeddings.new_zeros(rows, 0, size)
    most = size if top is None else min(top, size)
    levels: list[Tensor] = []  # tokens [B, m^k] of level k = 1, 2, ..
    laws: list[Tensor] = []
    weights = pending.embeddings.new_ones(rows, 1)
    for d in range(depth + 1):
        below = _last_level(trunk, cache, pending, levels, most)
        if d:
            laws.append((weights[..., None] * below).sum(1))
        if d < depth:
            best = below.topk(most, -1)
            levels.append(best.indices.flatten(1))
            weights = (weights[..., None] * best.values / best.values.sum(-1, keepdim=True)).flatten(1)
    return torch.stack(laws, 1)


def _last_level(trunk: Trunk, cache: RaggedCache, pending: Prompt, levels: list[Tensor], most: int) -> Tensor:
    """Laws [B, N, V] of the token behind each node of the last level (behind the last pending entry if none)."""
    inputs, positions, parent = pending.embeddings, pending.positions, None
    device, lengths = inputs.device, pending.lengths
    first, size = lengths - 1, 1  # where the last level stands
    if levels:
        sizes = [tokens.shape[1] for tokens in levels]
        total, size = sum(sizes), sizes[-1]
        first = lengths + total - size
        inputs, positions = _behind(trunk, pending, levels)
        # Child i of a level hangs on node i // m of the level above, which ends where its own begins.
        above = torch.cat([torch.arange(n, device=device) // most + sum(sizes[: k - 1]) for k, n in enumerate(sizes)])
        above[: sizes[0]] = -1
        slots = lengths[:, None] + torch.arange(total, device=device)
        parent = torch.arange(-1, inputs.shape[1] - 1, device=device).repeat(len(lengths), 1)
        parent.scatter_(1, slots, lengths[:, None] + above)
    states = trunk.extend(inputs, positions, None if parent is None else ancestors_of(parent), cache)
    slots = first[:, None] + torch.arange(size, device=device)
    logits = trunk.unembed(states.hidden.gather(1, slots[..., None].expand(-1, -1, trunk.width)))
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _behind(trunk: Trunk, pending: Prompt, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs [B, Q, C] and positions [B, Q] of each row's pending entries with the nodes of all levels behind."""
    tokens = torch.cat(levels, 1)
    step = torch.cat([torch.full_like(level[0], k) for k, level in enumerate(levels)])
    slots = pending.lengths[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
    inputs = torch.nn.functional.pad(pending.embeddings, (0, 0, 0, tokens.shape[1]))
    inputs = inputs.scatter(1, slots[..., None].expand(-1, -1, trunk.width), trunk.embed(tokens).to(inputs.dtype))
    positions = torch.nn.functional.pad(pending.positions, (0, tokens.shape[1]))
    return inputs, positions.scatter(1, slots, pending.next_position[:, None] + step)
