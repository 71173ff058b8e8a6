"""Labels of the heads: the token that head d predicts at index t."""

import torch
from torch import Tensor

IGNORED = -100


def shifted_labels(
    ids: Tensor, segments: Tensor, depth: int, wanted: Tensor | None = None, starts: Tensor | None = None
) -> Tensor:
    """Return labels [B, L, D + 1] of depths 0..D for ids [B, L]: at index t, depth d, ids[t + 1 + d] or -100.

    A label is -100 if it is in another sample (`segments` [B, L], -1 is padding) or has no id (-1). `wanted` bool
    [B, L] is the loss mask over target tokens; `starts` bool [B, L] is true at the indices where a call can start (from
    the last entry of the prompt on). Labels are shifted only here.
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
