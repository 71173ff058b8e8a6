"""Who sees whom around a block: the context up to the anchor, and the places of the own block."""

import torch
from torch import Tensor

from speechmtp.models.cache import RaggedCache


def taught_seen(segments: Tensor, anchors: Tensor, width: int, causal: bool) -> Tensor:
    """Bool [B, A W, L + A W] for the blocks of W places behind each of `anchors` [B, A]: of the L entries those of
    the anchor's segment (`segments` [B, L]) up to it, of the blocks the own one, in a causal one up to oneself."""
    index = torch.arange(segments.shape[1], device=segments.device)
    same = segments[:, None] == segments.gather(1, anchors)[..., None]
    context = (same & (index <= anchors[..., None])).repeat_interleave(width, 1)
    place = torch.arange(anchors.shape[1] * width, device=segments.device)
    own = place[:, None] // width == place // width
    if causal:
        own = own & (place <= place[:, None])
    return torch.cat([context, own.expand(len(segments), -1, -1)], 2)


def drafted_seen(cache: RaggedCache, count: Tensor, width: int, causal: bool) -> Tensor:
    """Bool [B, W, cache width] for one block of W places a row that stands behind the row's committed entries and
    `count` [B] fresh ones: all of these, and the block as in training."""
    slots = torch.arange(cache.width, device=count.device)
    place = slots - (cache.lengths + count)[:, None]
    places = torch.arange(width, device=count.device)
    last = places if causal else torch.full_like(places, width - 1)
    return place[:, None] <= last[:, None]
