"""Filterbank features: Kaldi's values, and the same bits however the audio is cut or batched."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmtp.audio.features import FRAMES_PER_BLOCK, Fbank, FbankConfig, mel_filters
from speechmtp.audio.torchaudio_compat import import_torchaudio
from speechmtp.errors import ConfigError, DataError, ShapeError

GOLDEN = Path(__file__).parent.parent / "golden" / "fbank.json"
FBANK = Fbank()


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    """White noise `[samples]`."""
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


STREAM = noise(FRAMES_PER_BLOCK * 160 * 2 + 1000)
OFFLINE = FBANK(STREAM[None])[0][0]


def streamed(pieces: list[torch.Tensor]) -> torch.Tensor:
    """Frames of a stream fed piece by piece."""
    state, frames = FBANK.start(), []
    for number, piece in enumerate(pieces):
        out, state = FBANK.step(piece, state, last=number == len(pieces) - 1)
        frames.append(out)
    return torch.cat(frames)


@pytest.mark.parametrize("case", range(3))
def test_golden_values(case: int) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    expected = torch.tensor(golden["cases"][case]["frames"])
    audio = torch.tensor(golden["samples"], dtype=torch.float32)[None] / 32768
    frames, lengths = Fbank(FbankConfig(**golden["cases"][case]["settings"]))(audio)
    assert frames.shape == (1, *expected.shape)
    assert lengths.tolist() == [len(expected)]
    torch.testing.assert_close(frames[0], expected, rtol=0, atol=1e-4)


def test_equals_torchaudio() -> None:
    if import_torchaudio() is None:
        pytest.skip("torchaudio is not installed or does not import")
    from torchaudio.compliance import kaldi

    expected = kaldi.fbank(STREAM[None] * 32768, num_mel_bins=80, dither=0.0)
    torch.testing.assert_close(OFFLINE, expected, rtol=0, atol=1e-4)


@given(cuts=st.lists(st.one_of(st.just(1), st.integers(0, 700), st.integers(0, 12000)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_stream_has_the_bits_of_offline(cuts: list[int]) -> None:
    edges = torch.tensor([0, *cuts, len(STREAM)]).cumsum(0).clamp_max(len(STREAM)).tolist()
    pieces = [STREAM[begin:end] for begin, end in pairwise(edges)]
    assert torch.equal(streamed(pieces), OFFLINE)


def test_stream_of_single_samples() -> None:
    pieces = list(STREAM[:5000].split(1))
    assert torch.equal(streamed(pieces), OFFLINE[: FBANK.config.num_frames(5000)])


def test_frame_bits_do_not_depend_on_the_place_in_the_block() -> None:
    frame = noise(400, seed=3)
    expected = FBANK(frame[None])[0][0, 0]
    for place in range(FRAMES_PER_BLOCK + 1):
        audio = torch.cat([noise(160 * place, seed=place), frame, noise(777)])
        assert torch.equal(FBANK(audio[None])[0][0, place], expected)


def test_batch_has_the_bits_of_single_rows() -> None:
    sizes = [12345, 0, 399, 400, 20000, 559, 560, 16000]
    rows = [noise(size, seed=size) for size in sizes]
    audio = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9.0)
    frames, lengths = FBANK(audio, torch.tensor(sizes))
    assert lengths.tolist() == [75, 0, 0, 1, 123, 1, 2, 98]
    for row, size, frame, length in zip(rows, sizes, frames, lengths.tolist()):
        assert length == FBANK.config.num_frames(size)
        assert torch.equal(frame[:length], FBANK(row[None])[0][0])
        assert not frame[length:].any()


def test_autocast_does_not_change_the_bits() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FBANK(STREAM[None])[0][0], OFFLINE)


def test_scale_shifts_every_bin() -> None:
    unscaled = Fbank(FbankConfig(scale=1.0))(STREAM[None])[0][0]
    torch.testing.assert_close(OFFLINE - unscaled, torch.full_like(OFFLINE, 20.794415), rtol=0, atol=1e-4)


def test_silence_is_the_floor() -> None:
    frames, _ = FBANK(torch.full((1, 1000), 0.25))
    torch.testing.assert_close(frames, torch.full((1, 4, 80), -15.942385))


def test_a_sine_peaks_in_its_own_filter() -> None:
    audio = torch.sin(2 * torch.pi * 1000 * torch.arange(4000) / 16000)[None]
    peak = FBANK(audio)[0].argmax(dim=-1).unique()
    nearest_bin = mel_filters(FBANK.config)[32].argmax()
    assert peak.tolist() == [int(nearest_bin)]


def test_dither_needs_and_follows_its_generator() -> None:
    fbank = Fbank(FbankConfig(dither=1.0))
    assert torch.equal(fbank(STREAM[None])[0][0], OFFLINE)
    first, second = (fbank(STREAM[None], generator=torch.Generator().manual_seed(5))[0] for _ in range(2))
    assert torch.equal(first, second)
    silence, _ = fbank(torch.zeros(1, 4000), generator=torch.Generator().manual_seed(5))
    assert silence.min() > -15


def test_stream_state_is_a_value() -> None:
    _, state = FBANK.step(STREAM[:1000], FBANK.start())
    first, _ = FBANK.step(STREAM[1000:3000], state)
    again, _ = FBANK.step(STREAM[1000:3000], state)
    assert torch.equal(first, again)
    assert len(state.pending) < 400


def test_nothing_comes_after_the_end() -> None:
    frames, state = FBANK.step(STREAM[:399], FBANK.start(), last=True)
    assert frames.shape == (0, 80)
    with pytest.raises(DataError, match="after the end"):
        FBANK.step(STREAM[:1], state)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[1000\]"):
        FBANK(noise(1000))
    with pytest.raises(ShapeError, match="int16"):
        FBANK(torch.zeros(1, 1000, dtype=torch.int16))
    with pytest.raises(ShapeError, match="up to 1000"):
        FBANK(torch.zeros(1, 1000), torch.tensor([1001]))
    with pytest.raises(ShapeError, match=r"\[1, 10\]"):
        FBANK.step(torch.zeros(1, 10), FBANK.start())


@pytest.mark.parametrize("wrong", [{"low_hz": 9000.0}, {"high_hz": 8001.0}, {"frame_shift_ms": 30.0}, {"num_mels": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).split("_")[0]):
        FbankConfig(**wrong)
