"""The signal model of codecs against plain formulas and PyTorch's own STFT."""

import math

import numpy as np
import pytest
import torch

from speechmtp.codec import signal


def test_the_pulse_train_is_the_sum_of_its_harmonics() -> None:
    hertz = torch.full((2400,), 220.0)
    train, phase = signal.pulse_train(hertz, torch.tensor([0.25], dtype=torch.float64))
    cycles = 0.25 + torch.arange(1, 2401, dtype=torch.float64) * 220 / 24000
    wanted = sum(torch.cos(2 * math.pi * order * cycles) for order in range(1, 51))
    assert torch.allclose(train.double(), wanted, atol=2e-2)
    assert float(phase) == pytest.approx(float(cycles[-1] % 1))


def test_pieces_of_a_pulse_train_go_on_where_they_ended() -> None:
    hertz = torch.linspace(100, 300, 3000)
    whole, _ = signal.pulse_train(hertz, torch.zeros(1, dtype=torch.float64))
    first, phase = signal.pulse_train(hertz[:1000], torch.zeros(1, dtype=torch.float64))
    second, _ = signal.pulse_train(hertz[1000:], phase)
    assert torch.allclose(torch.cat([first, second]), whole, atol=1e-3)


def test_there_are_no_pulses_where_nothing_is_voiced() -> None:
    train, _ = signal.pulse_train(torch.tensor([0.0, 39.0, 40.0, 41.0]), torch.zeros(1, dtype=torch.float64))
    assert (train != 0).tolist() == [False, False, False, True]


def test_curves_are_lines_between_the_middles_of_frames() -> None:
    samples = signal.to_samples(torch.tensor([1.0, 3.0, 7.0, 7.0]))
    at = (torch.arange(600) + 0.5) / 300 - 0.5
    wanted = np.interp(at.numpy(), [-1, 0, 1, 2], [1, 3, 7, 7])
    assert samples.shape == (600,) and np.allclose(samples.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9])
def test_overlap_add_inverts_the_stft(frames: int) -> None:
    torch.manual_seed(0)
    samples = torch.randn(frames * 300)
    window = signal.HANN.float()
    padded = torch.nn.functional.pad(samples, (600, 600))
    spectra = torch.stack([torch.fft.rfft(padded[300 * i : 300 * i + 1200] * window) for i in range(frames)])
    blocks, rest = signal.overlap_add(spectra, torch.zeros(3, 300))
    found = torch.cat([blocks, rest])[2 : 2 + frames] / signal.level(0, frames, frames)
    covered = slice(0, 300 * frames - 300)  # the last frame's own half has a window that falls to 0
    assert torch.allclose(found.flatten()[covered], samples[covered], atol=1e-4)


def test_the_level_is_flat_inside() -> None:
    assert torch.allclose(signal.level(2, 5, 40), torch.full((5, 300), signal.FULL), atol=1e-6)
    assert signal.level(0, 1, 40)[0, 0] < signal.FULL and signal.level(39, 1, 40)[0, -1] < 0.3


def test_noise_is_a_function_of_seed_and_quantum() -> None:
    one = signal.gaussian(1, 0, 16)
    assert torch.equal(one, signal.gaussian(1, 0, 16))
    assert not torch.equal(one, signal.gaussian(1, 1, 16)) and not torch.equal(one, signal.gaussian(2, 0, 16))
    assert one.real.std() == pytest.approx(1, abs=0.05) and one.imag.mean() == pytest.approx(0, abs=0.05)
