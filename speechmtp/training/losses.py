"""Losses as pure functions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.heads.labels import IGNORED


def depth_weights(depth: int, scale: float, decay: float) -> list[float]:
    """Weights of depths 0..D: 1, then scale * decay^d (VocalNet's and Medusa's form)."""
    return [1.0, *(scale * decay**d for d in range(1, depth + 1))]


def multi_token_loss(
    logits: Tensor, labels: Tensor, weights: Sequence[float], smoothing: float = 0.0
) -> tuple[Tensor, list[Tensor]]:
    """Summed cross-entropy over depths for logits [B, L, D + 1, V] and labels [B, L, D + 1] (-100: none).

    Depth d is scaled by (labels of depth 0) / (labels of depth d), so that one division by the number of
    base labels gives every depth its own mean. Returns the weighted sum and each depth's scaled sum.
    """
    parts: list[Tensor] = []
    base = (labels[..., 0] != IGNORED).sum()
    for d in range(labels.shape[-1]):
        count = (labels[..., d] != IGNORED).sum()
        summed = F.cross_entropy(
            logits[..., d, :].flatten(0, -2).float(), labels[..., d].flatten(), ignore_index=IGNORED,
            reduction="sum", label_smoothing=smoothing,
        )  # fmt: skip
        parts.append(summed * (base / count.clamp_min(1)))
    return torch.stack([w * p for w, p in zip(weights, parts)]).sum(), parts
