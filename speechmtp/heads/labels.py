"""The one table of labels: what head d at index t is asked to predict."""

import torch
from torch import Tensor

IGNORED = -100


def shifted_labels(ids: Tensor, lengths: Tensor, first: int, depth: int) -> Tensor:
    """Labels [B, L, D + 1] of depths 0..D for ids [B, L]: index t, depth d holds ids[t + 1 + d].

    Labels end with the sample (-100 beyond `lengths` [B]) and begin at index `first`, the last entry of the
    prompt: earlier ones never start a call. The shift happens here and nowhere else.
    """
    size = ids.shape[1]
    index = torch.arange(size, device=ids.device)[:, None] + 1 + torch.arange(depth + 1, device=ids.device)
    known = index[None] < lengths[:, None, None]
    labels = ids[:, index.clamp(max=size - 1)].masked_fill(~known, IGNORED)
    labels[:, :first] = IGNORED
    return labels
