"""Rotary position embeddings (arXiv 2104.09864) that rotate the first half of each head's numbers with the second.

The two functions of angles differ in the order of operations, and so in the last bits. `rotary` computes as
transformers does, from whose layers heads are initialised; encoders were trained with `encoder_rotary`.
"""

import torch
from torch import Tensor

from speechmtp.models.shape import TrunkShape

Rotary = tuple[Tensor, Tensor]  # cosines and sines


def rotary(positions: Tensor, shape: TrunkShape, dtype: torch.dtype) -> Rotary:
    """Return cosines and sines [B, 1, Q, rotary dim] in `dtype` of positions [B, Q], for a layer of a trunk."""
    size = shape.rotary_dim or shape.head_dim
    steps = torch.arange(0, size, 2, device=positions.device, dtype=torch.float64 if dtype == torch.float64 else None)
    angles = positions[:, None, :, None].to(steps.dtype if dtype == torch.float64 else torch.float32) / (
        shape.rope_theta ** (steps / size)
    )
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def encoder_rotary(start: Tensor, steps: int, width: int) -> Rotary:
    """Return cosines and sines [B, 1, S, width] in float32 of the steps start..start+steps-1 of each row, `start` [B],
    for an encoder's layers."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, device=start.device, dtype=torch.float32) / width)
    at = start[:, None] + torch.arange(steps, device=start.device)
    angles = at[:, None, :, None].float() * frequencies
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def rotate(x: Tensor, turn: Rotary) -> Tensor:
    """Rotate x [B, H, Q, head_dim] by the angles of `turn`; numbers past their width are unchanged. The result has the
    wider dtype of the two."""
    cos, sin = turn
    x, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = x.chunk(2, -1)
    turned = x * cos + torch.cat([-second, first], -1) * sin
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned
