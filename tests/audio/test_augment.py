"""Augmentation: bounds, determinism, and what each change does to signal and features."""

import numpy as np
import pytest
import torch

from speechmtp.audio.augment import SpecAugmentConfig, add_noise, reverberate, spec_augment, speed_perturb
from speechmtp.errors import ConfigError, DataError, ShapeError


def seeded(seed: int) -> torch.Generator:
    """A torch generator."""
    return torch.Generator().manual_seed(seed)


def runs(mask: torch.Tensor) -> int:
    """Number of runs of true values in a vector."""
    return int((torch.diff(mask.int(), prepend=torch.zeros(1, dtype=torch.int)) == 1).sum())


def test_spec_augment_is_repeatable_and_pure() -> None:
    frames, lengths = torch.ones(3, 50, 80), torch.tensor([50, 20, 0])
    config = SpecAugmentConfig()
    first = spec_augment(frames, lengths, config, seeded(1))
    assert torch.equal(first, spec_augment(frames, lengths, config, seeded(1)))
    assert not torch.equal(first, spec_augment(frames, lengths, config, seeded(2)))
    assert bool((frames == 1).all())


@pytest.mark.parametrize("seed", range(20))
def test_spec_augment_bounds(seed: int) -> None:
    lengths = torch.tensor([200, 100, 19, 1, 0])
    config = SpecAugmentConfig(freq_masks=2, freq_width=27, time_masks=5, time_fraction=0.05, fill=-3.0)
    out = spec_augment(torch.ones(5, 200, 80), lengths, config, seeded(seed))
    for row, length in zip(out, lengths.tolist()):
        assert bool((row[length:] == 1).all()), "nothing past the row's own length"
        masked = row[:length] == -3.0
        assert bool((masked | (row[:length] == 1)).all())
        if length == 0:
            continue
        spans, bands = masked.all(dim=1), masked.all(dim=0)
        assert int(spans.sum()) <= 5 * int(0.05 * length)
        assert int(bands.sum()) <= 2 * 27
        assert runs(spans) <= 5
        assert runs(bands) <= 2
        assert torch.equal(masked, spans[:, None] | bands[None, :]), "only whole bands and whole spans"


def test_spec_augment_uses_every_width_and_place() -> None:
    config = SpecAugmentConfig(freq_masks=1, freq_width=3, time_masks=0)
    out = spec_augment(torch.ones(2000, 1, 6), torch.ones(2000, dtype=torch.long), config, seeded(0))
    masked = out[:, 0] == 0
    widths = masked.sum(dim=1).bincount(minlength=4)
    assert (widths > 400).all()
    assert len(widths) == 4
    assert masked.any(dim=0).all()
    config = SpecAugmentConfig(freq_masks=0, time_masks=1, time_fraction=1.0)
    out = spec_augment(torch.ones(2000, 6, 1), torch.full((2000,), 6), config, seeded(0))
    assert ((out[..., 0] == 0).sum(dim=1).bincount(minlength=7) > 200).all()


def test_spec_augment_without_masks_is_the_identity() -> None:
    frames = torch.randn(2, 30, 20, generator=seeded(0))
    config = SpecAugmentConfig(freq_masks=0, time_masks=0)
    assert torch.equal(spec_augment(frames, torch.tensor([30, 10]), config, seeded(0)), frames)


def test_spec_augment_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="time_fraction"):
        SpecAugmentConfig(time_fraction=1.5)
    with pytest.raises(ConfigError, match="freq_width=-1"):
        SpecAugmentConfig(freq_width=-1)
    with pytest.raises(ShapeError, match=r"\[B, T, F\]"):
        spec_augment(torch.ones(30, 20), torch.tensor([30]), SpecAugmentConfig(), seeded(0))


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_speed_moves_length_and_pitch(factor: float) -> None:
    audio = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    fast = speed_perturb(audio, 16000, factor)
    assert len(fast) == int(np.ceil(16000 / factor - 1e-6))
    peak = np.argmax(np.abs(np.fft.rfft(fast))) * 16000 / len(fast)
    assert peak == pytest.approx(1000 * factor, abs=1.2)
    assert np.array_equal(fast, audio) == (factor == 1.0)
    with pytest.raises(DataError, match="factor 0"):
        speed_perturb(audio, 16000, 0)


@pytest.mark.parametrize("noise_length", [100, 1000, 5000])
def test_noise_has_the_asked_ratio(noise_length: int) -> None:
    generator = np.random.default_rng(0)
    audio = generator.standard_normal(1000).astype(np.float32)
    noise = generator.standard_normal(noise_length).astype(np.float32)
    noisy = add_noise(audio, noise, 7.0, np.random.default_rng(1))
    assert noisy.dtype == np.float32
    assert noisy.shape == audio.shape
    ratio = np.square(audio).sum() / np.square(noisy - audio).sum()
    assert 10 * np.log10(ratio) == pytest.approx(7.0, abs=1e-3)
    assert np.array_equal(noisy, add_noise(audio, noise, 7.0, np.random.default_rng(1)))
    assert not np.array_equal(noisy, add_noise(audio, noise, 7.0, np.random.default_rng(2)))


def test_silent_noise_changes_nothing() -> None:
    audio = np.ones(10, np.float32)
    assert np.array_equal(add_noise(audio, np.zeros(3, np.float32), 5.0, np.random.default_rng(0)), audio)
    with pytest.raises(ShapeError, match="N > 0"):
        add_noise(audio, np.zeros(0, np.float32), 5.0, np.random.default_rng(0))


def test_reverberation_keeps_time_and_energy() -> None:
    audio = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    dry = np.zeros(50, np.float32)
    dry[20] = -0.3
    np.testing.assert_allclose(reverberate(audio, dry), -audio, atol=1e-5)
    rir = np.zeros(800, np.float32)
    rir[[20, 300, 700]] = (1.0, 0.5, 0.25)
    wet = reverberate(audio, rir)
    expected = audio.astype(np.float64).copy()
    expected[280:] += 0.5 * audio[:-280]
    expected[680:] += 0.25 * audio[:-680]
    expected *= np.linalg.norm(audio) / np.linalg.norm(expected)
    np.testing.assert_allclose(wet, expected, atol=1e-5)
    assert not reverberate(np.zeros(10, np.float32), rir).any()
