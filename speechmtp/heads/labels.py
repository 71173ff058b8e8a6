"""The one table of labels: what head d at index t is asked to predict."""

import torch
from torch import Tensor

IGNORED = -100


def shifted_labels(
    ids: Tensor, segments: Tensor, depth: int, wanted: Tensor | None = None, starts: Tensor | None = None
) -> Tensor:
    """Labels [B, L, D + 1] of depths 0..D for ids [B, L]: index t, depth d holds ids[t + 1 + d], or -100.

    Labels end with their sample (`segments` [B, L], -1 is padding) and never are entries without an id (-1).
    `wanted` [B, L] is the loss mask, true at tokens that count as targets; `starts` [B, L] is true where a call
    can start (from the last entry of the prompt on). The shift happens here and nowhere else.
    """
    size = ids.shape[1]
    target = torch.arange(size, device=ids.device)[:, None] + 1 + torch.arange(depth + 1, device=ids.device)
    index = target.clamp(max=size - 1)
    labels = ids[:, index]
    known = (target < size)[None] & (segments[:, index] == segments[..., None]) & (segments >= 0)[..., None]
    known = known & (labels >= 0)
    if wanted is not None:
        known = known & wanted[:, index]
    if starts is not None:
        known = known & starts[..., None]
    return labels.masked_fill(~known, IGNORED)
