"""Exact recovery of 8-bit weights: integers, scale and zero point of tensors that were published quantised."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

LARGEST = 255  # unsigned 8-bit integers
_BLOCK = 1 << 15  # numbers that are computed at a time


def dequantise(integers: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Compute (integer - zero) * scale, rounded to float16 as in published checkpoints; returns float32 of the
    integers' shape.

    `integers` are uint8; `scale` and `zero` have one element.
    """
    out = torch.empty(integers.shape)
    given, made, zero = integers.reshape(-1), out.view(-1), zero.float()
    for start in range(0, len(given), _BLOCK):  # blocks stay in the processor's cache
        block = made[start : start + _BLOCK]
        block.copy_(given[start : start + _BLOCK]).sub_(zero).mul_(scale)
        block.copy_(block.half())
    return out


def recover_affine(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Find integers (uint8, the tensor's shape), a scale (float32 scalar) and a zero point (uint8 scalar) for which
    `dequantise` returns this tensor bit for bit; None if there are none.

    A float16 value v is the rounding of integer * scale if that product lies within half a float16 step of v. Each
    integer 1..255 therefore gives an interval of scales. A scale that lies in an interval of every value fits all of
    them; the largest such scale is returned.
    """
    values = tensor.detach().cpu().float()
    half = values.half()
    if not torch.equal(half.float(), values) or not bool(half.isfinite().all()):
        return None
    bits = half.contiguous().view(torch.int16).numpy().view(np.uint16)
    present = np.zeros(1 << 16, dtype=np.bool_)
    present[bits] = True
    level_bits = np.flatnonzero(present).astype(np.uint16)
    if not 0 < len(level_bits) <= LARGEST + 1:
        return None
    levels = level_bits.view(np.float16)
    for scale in _scales(levels):
        steps = np.rint(levels.astype(np.float64) / scale).astype(np.int64)
        zero = max(0, -int(steps.min()))
        if int(steps.max()) + zero > LARGEST:
            return None  # smaller scales spread wider
        found = torch.from_numpy((steps + zero).astype(np.uint8)), torch.tensor(scale), torch.tensor(zero).byte()
        if np.array_equal(dequantise(*found).half().numpy().view(np.uint16), level_bits):  # by bits: -0 is not 0
            table = torch.zeros(1 << 16, dtype=torch.uint8)
            table[torch.from_numpy(level_bits.astype(np.int64))] = found[0]
            return torch.from_numpy(table.numpy()[bits]), found[1], found[2]
    return None


def _scales(levels: NDArray[np.float16]) -> Iterator[np.float32]:
    """Yield candidate scales in float32, the largest first."""
    sizes = np.unique(np.abs(levels[levels != 0]))
    if not len(sizes):
        yield np.float32(1)
    for low, high in _intervals(sizes):
        # The middle fits, except in intervals of only a few float32 values, where rounding makes some of them fail.
        inside = np.linspace(low, high, 9).astype(np.float32)
        yield from (scale for scale in (inside[4], *inside) if scale > 0)


def _intervals(sizes: NDArray[np.float16]) -> Iterator[tuple[float, float]]:
    """Yield the intervals of scales that fit all of these positive values, the highest first."""
    exact = sizes.astype(np.float64)
    step = np.exp2(np.maximum(np.frexp(exact)[1] - 11, -24).astype(np.float64))  # to the next float16
    below = np.nextafter(sizes, np.float16(0)).astype(np.float64)
    integers = np.arange(1, LARGEST + 1, dtype=np.float64)[:, None]
    start, end = (exact + below) / 2 / integers, (exact + step / 2) / integers
    # Subnormal values: intervals of neighbouring integers overlap; a value counts once.
    end[1:] = np.minimum(end[1:], np.nextafter(start[:-1], 0))
    place = np.concatenate([start.ravel(), end.ravel()])
    change = np.repeat([1, -1], start.size)
    order = np.lexsort((-change, place))  # a start before an end at the same place
    place, covered = place[order], np.cumsum(change[order])
    for i in np.flatnonzero(covered == len(sizes))[::-1]:
        yield float(place[i]), float(place[i + 1])
