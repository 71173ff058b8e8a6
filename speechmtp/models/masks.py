"""Attention masks: which keys each query sees. Boolean masks are true where a key is seen.

Letters: B rows, L entries of a training row, Q queries, S keys, A anchors of blocks, W positions of a block.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from speechmtp.models.cache import RaggedCache


def additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive mask [B, 1, Q, S], which transformers uses unchanged: 0 where `seen` bool [B, Q, S] is true,
    the lowest finite number of `dtype` elsewhere.

    Eager attention would add a boolean mask as 0 and 1, without an error.
    """
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Return bool [B, size], true for the first `lengths` [B] entries of each row."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def memory_mask(memory: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Return the additive mask [B, 1, 1, S] over encoder outputs [B, S, E] of `lengths` [B]; None without padding."""
    size = memory.shape[1]
    if lengths is None or int(lengths.min()) == size:
        return None
    return additive_mask(length_mask(lengths, size)[:, None], memory.dtype)


def causal_mask(segments: Tensor, behind: int = 0) -> Tensor:
    """Return bool [B, L, L]: each entry sees those of its segment up to itself, except the segment's first `behind`.

    `segments` [B, L] numbers the samples of a row, -1 is padding. Each entry always sees itself, since a query that
    sees nothing would give NaN.
    """
    size = segments.shape[1]
    index = torch.arange(size, device=segments.device)
    same = segments[:, :, None] == segments[:, None, :]
    seen = same & (index[None, :] <= index[:, None])
    if behind:
        before = (index - behind).clamp_min(0)
        key = (index >= behind) & (segments[:, before] == segments)
        seen = seen & key[:, None, :]
    return seen | torch.eye(size, dtype=torch.bool, device=segments.device)


# With a ragged cache.


def ragged_mask(cache: RaggedCache, queries: int, ancestors: Tensor | None) -> Tensor:
    """Return bool [B, Q, width] ([1, Q, width] if all rows are alike) for Q new entries: each sees its row's committed
    entries, and of the new ones those that `ancestors` [B, Q, Q] names (None: a chain, itself and all before it)."""
    device = cache.device
    index = torch.arange(queries, device=device)
    slots = torch.arange(cache.width, device=device)
    if ancestors is None and cache.start is not None:  # one triangle after the committed block
        return (slots[None, :] <= cache.start + index[:, None])[None]
    relative = slots - cache.lengths[:, None]
    if ancestors is None:
        return relative[:, None, :] <= index[None, :, None]
    inside = (relative >= 0) & (relative < queries)
    picked = ancestors.gather(2, relative.clamp(0, queries - 1)[:, None, :].expand(-1, queries, -1))
    return (relative < 0)[:, None, :] | (picked & inside[:, None, :])


def additive_ragged_mask(cache: RaggedCache, queries: int, ancestors: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return `ragged_mask` as an additive mask [B, 1, Q, width]."""
    if cache.start is None:
        mask = additive_mask(ragged_mask(cache, queries, ancestors), dtype)
    else:  # all committed entries are seen, then the mask of the new entries
        triangle = _triangle if queries <= 64 else _triangle.__wrapped__  # a prompt's mask is not worth caching
        own = triangle(queries, dtype, cache.device) if ancestors is None else additive_mask(ancestors, dtype)
        mask = torch.nn.functional.pad(own, (cache.start, 0))
    return mask.expand(cache.count, -1, -1, -1)


@lru_cache(maxsize=64)
def _triangle(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return additive_mask(torch.ones(1, size, size, dtype=torch.bool, device=device).tril_(), dtype)


# Blocks of drafted positions: each sees the context up to its anchor, and its own block.


def training_block_mask(segments: Tensor, anchors: Tensor, width: int, causal: bool) -> Tensor:
    """Return bool [B, A W, L + A W] for blocks of W positions after each of `anchors` [B, A]. Of the L entries a block
    sees those of the anchor's segment (`segments` [B, L]) up to the anchor; of the blocks only itself. If `causal`,
    each position sees its block up to itself."""
    index = torch.arange(segments.shape[1], device=segments.device)
    same = segments[:, None] == segments.gather(1, anchors)[..., None]
    context = (same & (index <= anchors[..., None])).repeat_interleave(width, 1)
    place = torch.arange(anchors.shape[1] * width, device=segments.device)
    own = place[:, None] // width == place // width
    if causal:
        own = own & (place <= place[:, None])
    return torch.cat([context, own.expand(len(segments), -1, -1)], 2)


def drafting_block_mask(cache: RaggedCache, count: Tensor, width: int, causal: bool) -> Tensor:
    """Return bool [B, W, cache width] for one block of W positions per row, which follows the row's committed entries
    and `count` [B] fresh ones. The block sees all of these, and itself as in training."""
    slots = torch.arange(cache.width, device=count.device)
    place = slots - (cache.lengths + count)[:, None]
    places = torch.arange(width, device=count.device)
    last = places if causal else torch.full_like(places, width - 1)
    return place[:, None] <= last[:, None]


# Encoders.


def chunk_mask(steps: int, chunk: int, left_chunks: int, device: torch.device | None = None) -> Tensor:
    """Return bool [S, S]: a step sees its own chunk and `left_chunks` before it (-1: all); `chunk` 0 sees all."""
    if chunk <= 0:
        return torch.ones(steps, steps, dtype=torch.bool, device=device)
    index = torch.arange(steps, device=device) // chunk
    mask = index[None, :] <= index[:, None]
    if left_chunks >= 0:
        mask &= index[None, :] >= index[:, None] - left_chunks
    return mask


def padded_mask(seen: Tensor, valid: Tensor) -> Tensor:
    """Return bool [B, 1, S, S]: `seen` [S, S] restricted to the keys in `valid` [B, S]. Each step also sees itself,
    even in the padding, so that no softmax has an empty row."""
    steps = valid.shape[1]
    return (seen & valid[:, None, :] | torch.eye(steps, dtype=torch.bool, device=valid.device))[:, None]


def chunk_step_mask(cached: Sequence[int], took: Sequence[int], device: torch.device) -> Tensor | None:
    """Return bool [B, 1, 1, max(cached) + max(took)] over cached steps and a chunk's new ones: each row sees its last
    `cached` cached steps and its first `took` new ones; None if that is everything."""
    width, size = max(cached), max(took)
    if min(took) == size and min(cached) == width:
        return None
    first = torch.tensor([width - n for n in cached], device=device)[:, None]
    end = torch.tensor([width + n for n in took], device=device)[:, None]
    at = torch.arange(width + size, device=device)
    return ((at >= first) & (at < end))[:, None, None]


# Tokens.

_KNOWN: dict[tuple[int, torch.device], tuple[tuple[int, ...], Tensor]] = {}


def ids_of(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Return ids as a tensor, made once per tuple. The cache holds the tuple too, so that its `id` is not reused."""
    found = _KNOWN.get((id(ids), device))
    if found is None:
        if len(_KNOWN) > 64:
            _KNOWN.clear()
        found = _KNOWN[id(ids), device] = ids, torch.tensor(ids, dtype=torch.long, device=device)
    return found[1]
