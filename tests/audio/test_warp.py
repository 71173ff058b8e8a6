"""The warped frequency axis stays within the bins it has."""

import pytest
import torch

from speechmtp.audio.warp import warp_frequency


def test_factor_one_changes_nothing() -> None:
    frames = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(warp_frequency(frames, torch.ones(3)), frames, atol=1e-6)


def test_a_ramp_is_read_at_the_scaled_bin_and_ends_at_the_last() -> None:
    frames = torch.arange(10.0).expand(2, 3, 10)
    warped = warp_frequency(frames, torch.tensor([0.5, 1.5]))
    assert torch.allclose(warped[0], torch.arange(10.0) * 0.5)
    assert torch.allclose(warped[1], (torch.arange(10.0) * 1.5).clamp(max=9))


@pytest.mark.parametrize("factor", [0.0, 0.37, 0.9, 1.0, 1.1, 2.0, 50.0])
def test_values_stay_within_the_range_of_their_frame(factor: float) -> None:
    frames = torch.randn(2, 4, 80, generator=torch.Generator().manual_seed(1))
    warped = warp_frequency(frames, torch.full((2,), factor))
    assert warped.shape == frames.shape
    assert bool((warped <= frames.max(-1, keepdim=True).values + 1e-6).all())
    assert bool((warped >= frames.min(-1, keepdim=True).values - 1e-6).all())


def test_rows_have_their_own_factor_and_the_input_stays() -> None:
    frames = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(2))
    before = frames.clone()
    both = warp_frequency(frames, torch.tensor([0.9, 1.1]))
    assert torch.equal(both[:1], warp_frequency(frames[:1], torch.tensor([0.9])))
    assert torch.equal(both[1:], warp_frequency(frames[1:], torch.tensor([1.1])))
    assert torch.equal(frames, before)


@pytest.mark.parametrize("bins", [1, 2])
def test_few_bins_and_no_frames(bins: int) -> None:
    assert warp_frequency(torch.ones(1, 3, bins), torch.tensor([1.1])).tolist() == [[[1.0] * bins] * 3]
    assert warp_frequency(torch.ones(1, 0, 8), torch.tensor([1.1])).shape == (1, 0, 8)
