"""Weights that were published as 8-bit integers with one scale and zero point a tensor, found again exactly."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

LARGEST = 255  # unsigned 8-bit integers


def dequantise(integers: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """(integer - zero) * scale, rounded to float16 as such weights are handed on: float32, the integers' shape.

    `integers` are uint8; `scale` and `zero` have one element. Each of the 256 values is computed once.
    """
    values = ((torch.arange(LARGEST + 1).float() - zero.float()) * scale).half().float()
    return torch.from_numpy(np.take(values.numpy(), integers.numpy()))


def recover_affine(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Integers (uint8, the tensor's shape), scale (float32) and zero point (uint8), both of no dimension, whose
    `dequantise` is this tensor bit for bit; None where there are none.

    A value v of float16 comes from integer * scale within half a step of v, so each integer 1..255 gives an interval
    of scales; a scale that lies in one interval of every value fits them all. The largest such scale is taken.
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
    """Candidates in float32, the largest first."""
    sizes = np.unique(np.abs(levels[levels != 0]))
    if not len(sizes):
        yield np.float32(1)
    for low, high in _intervals(sizes):
        # The middle fits but for the narrowest intervals, of a few float32 values, some of which fail by a rounding.
        inside = np.linspace(low, high, 9).astype(np.float32)
        yield from (scale for scale in (inside[4], *inside) if scale > 0)


def _intervals(sizes: NDArray[np.float16]) -> Iterator[tuple[float, float]]:
    """Intervals of scales that fit all of these positive values, the highest first."""
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
