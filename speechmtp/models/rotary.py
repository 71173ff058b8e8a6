"""Rotary position embeddings (arXiv 2104.09864), the first half of each head's numbers turned against the second.

The two tables differ in the order of their operations, and so in the last bits: the heads' one is that of transformers,
whose layers they start from, and encoders were trained with the other.
"""

import torch
from torch import Tensor

from speechmtp.models.shape import TrunkShape

Rotary = tuple[Tensor, Tensor]  # cosines and sines


def rotary(positions: Tensor, shape: TrunkShape, dtype: torch.dtype) -> Rotary:
    """Cosines and sines [B, 1, Q, rotary dim] in `dtype` of positions [B, Q], for a layer of a trunk."""
    size = shape.rotary_dim or shape.head_dim
    steps = torch.arange(0, size, 2, device=positions.device, dtype=torch.float64 if dtype == torch.float64 else None)
    angles = positions[:, None, :, None].to(steps.dtype if dtype == torch.float64 else torch.float32) / (
        shape.rope_theta ** (steps / size)
    )
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def encoder_rotary(start: Tensor, steps: int, width: int) -> Rotary:
    """Cosines and sines [B, 1, S, width] in float32 of the absolute steps start..start+steps-1 of each row of `start`
    [B], for an encoder's layers."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, device=start.device, dtype=torch.float32) / width)
    at = start[:, None] + torch.arange(steps, device=start.device)
    angles = at[:, None, :, None].float() * frequencies
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def rotate(x: Tensor, turn: Rotary) -> Tensor:
    """x [B, H, Q, head_dim] turned by the angles of `turn`; what is behind their width stays. The result has the wider
    type of the two."""
    cos, sin = turn
    x, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = x.chunk(2, -1)
    turned = x * cos + torch.cat([-second, first], -1) * sin
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned
