"""Turned heads: against the rotation of number pairs, and the encoder's table against the layers' one."""

import math
from dataclasses import replace

import pytest
import tiny
import torch

from speechmtp.models.rotary import encoder_rotary, rotary, rotate

SHAPE = replace(tiny.trunk(0).shape, head_dim=8, rope_theta=100.0)


@pytest.mark.parametrize("turned", [0, 4, 6])
def test_pairs_of_numbers_turn_by_their_position(turned: int) -> None:
    """The first half of what turns against its second half; what is behind stays."""
    size = turned or 8
    positions = torch.tensor([[0, 3, 7]])
    x = torch.randn(1, 2, 3, 8, generator=tiny.generator(0), dtype=torch.float64)
    found = rotate(x, rotary(positions, replace(SHAPE, rotary_dim=turned), torch.float64))
    for head, step, i in ((h, s, i) for h in range(2) for s in range(3) for i in range(size // 2)):
        angle = int(positions[0, step]) / 100.0 ** (2 * i / size)
        a, b = float(x[0, head, step, i]), float(x[0, head, step, i + size // 2])
        assert float(found[0, head, step, i]) == pytest.approx(a * math.cos(angle) - b * math.sin(angle))
        assert float(found[0, head, step, i + size // 2]) == pytest.approx(b * math.cos(angle) + a * math.sin(angle))
    assert torch.equal(found[..., size:], x[..., size:])


def test_tables_have_the_type_that_is_asked_for() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        cos, sin = rotary(torch.arange(4)[None], SHAPE, dtype)
        assert cos.dtype == sin.dtype == dtype and cos.shape == sin.shape == (1, 1, 4, 8)


def test_an_encoder_counts_on_from_each_rows_start() -> None:
    """The same angles as a layer's at those positions, up to the order of operations; always float32."""
    cos, sin = encoder_rotary(torch.tensor([0, 5]), 3, 8)
    assert cos.dtype == torch.float32 and cos.shape == (2, 1, 3, 8)
    positions = torch.tensor([[0, 1, 2], [5, 6, 7]])
    expected = rotary(positions, replace(SHAPE, rope_theta=10000.0), torch.float32)
    torch.testing.assert_close((cos, sin), expected, rtol=0, atol=1e-6)


def test_half_precision_turned_by_float32_is_float32() -> None:
    """So that who wants the narrow type says so."""
    x = torch.randn(1, 1, 2, 8, generator=tiny.generator(1)).bfloat16()
    assert rotate(x, encoder_rotary(torch.tensor([0]), 2, 8)).dtype == torch.float32
