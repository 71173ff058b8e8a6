"""Hints: one vector for every output token, added to the entry that the token is predicted from (`types.Prompt`).

Everything that embeds output tokens adds them here: trunk calls, drafters, heads, training and evaluation.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.types import Prompt


def hinted(embedded: Tensor, hints: Tensor | None, depth: Tensor | None = None) -> Tensor:
    """Return embeddings [B, P, C] with the hints [B, N, C] of their entries, in order, or those at `depth` [B, P];
    unchanged if there are no hints."""
    if hints is None:
        return embedded
    if depth is not None:
        hints = hints.gather(1, depth[..., None].expand(-1, -1, hints.shape[-1]))
    return embedded + hints.to(embedded.dtype)


def hints_after(prompt: Prompt, count: int) -> Tensor | None:
    """Return the hints [B, count, C] of the entries after a batch of prompts; None if they have none."""
    if prompt.hints is None:
        return None
    part = prompt.hints[:, 1 : 1 + count]
    return F.pad(part, (0, 0, 0, count - part.shape[1]))


def hints_from(hints: Tensor, first: int, count: int) -> Tensor:
    """Return `count` hints [count, C] from hints [T, C], from number `first` on; zeros past the end."""
    part = hints[first : first + count]
    return part if len(part) == count else F.pad(part, (0, 0, 0, count - len(part)))


def hints_behind(prompts: Sequence[Prompt], begin: Sequence[int], count: int) -> Tensor | None:
    """Return the hints [B, count, C] of the entries of output tokens from `begin` [B] on, of single-row prompts; None
    if no prompt has any."""
    like = next((prompt.hints for prompt in prompts if prompt.hints is not None), None)
    if like is None:
        return None
    own = [like[0, :0] if prompt.hints is None else prompt.hints[0] for prompt in prompts]
    return torch.stack([hints_from(hints, first + 1, count) for hints, first in zip(own, begin)])


def hints_by_entry(hints: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Return what is added to each of `size` entries of a row, [B, size, C]: vector i of hints [B, T, C] to the entry
    `lengths` - 1 + i, where `lengths` [B] are the entries of the prompts; zeros elsewhere."""
    index = torch.arange(size, device=hints.device) - (lengths[:, None] - 1)
    inside = (index >= 0) & (index < hints.shape[1])
    at = index.clamp(0, max(0, hints.shape[1] - 1))[..., None].expand(-1, -1, hints.shape[2])
    return hints.gather(1, at) * inside[..., None]
