"""Vocal tract length perturbation on filterbank features (Jaitly and Hinton, 2013)."""

import torch
from torch import Tensor


def warp_frequency(frames: Tensor, factors: Tensor) -> Tensor:
    """Scale the frequency axis of features [B, T, F] by `factors` [B], one per row, with linear interpolation.

    Bin f of the result reads bin f * factor of the input, at most the last bin.
    """
    bins = frames.shape[-1]
    source = (torch.arange(bins, device=frames.device) * factors[:, None]).clamp(0, bins - 1)
    low = source.floor().long().clamp(max=max(0, bins - 2))
    share = (source - low).to(frames.dtype)[:, None]
    index = low[:, None].expand(frames.shape)
    below = frames.gather(2, index)
    above = frames.gather(2, (index + 1).clamp(max=bins - 1))
    return below + share * (above - below)
