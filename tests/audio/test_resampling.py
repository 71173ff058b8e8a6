"""Audio resampled in pieces has the bits of audio resampled whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmtp.audio.io import resample
from speechmtp.audio.resampling import StreamResampler
from speechmtp.errors import DataError, ShapeError


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(0, 0.1, size).astype(np.float32)


def in_pieces(audio: np.ndarray, sizes: list[int], resampler: StreamResampler) -> np.ndarray:
    found, position = list[np.ndarray](), 0
    while position < len(audio):
        size = sizes[len(found) % len(sizes)]
        found.append(resampler.push(audio[position : position + size]))
        position += size
    return np.concatenate([*found, resampler.finish()])


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("sizes", [[1], [160], [1000, 1, 0, 77], [1 << 16]])
def test_pieces_are_resampled_as_the_whole_is(rate: int, sizes: list[int]) -> None:
    audio = noise(rate // 10 + 13 if sizes == [1] else 2 * rate + 13)
    assert np.array_equal(in_pieces(audio, sizes, StreamResampler(rate, 16000)), resample(audio, rate, 16000))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=9).filter(any), st.integers(0, 9000), st.booleans())
def test_any_pieces_of_any_length(sizes: list[int], length: int, up: bool) -> None:
    rates = (8000, 16000) if up else (44100, 16000)
    assert np.array_equal(in_pieces(noise(length), sizes, StreamResampler(*rates)), resample(noise(length), *rates))


def test_little_is_held_back() -> None:
    resampler = StreamResampler(48000, 16000)
    given = sum(len(resampler.push(noise(480))) for _ in range(100))
    assert 16000 - 0.06 * 16000 < given < 16000


def test_what_was_pushed_may_be_overwritten() -> None:
    audio, resampler = noise(9000), StreamResampler(44100, 16000)
    found, buffer = [], np.empty(100, np.float32)
    for start in range(0, 9000, 100):
        buffer[:] = audio[start : start + 100]
        found.append(resampler.push(buffer))
    assert np.array_equal(np.concatenate([*found, resampler.finish()]), resample(audio, 44100, 16000))
    same = StreamResampler(16000, 16000)
    kept = same.push(buffer)
    buffer[:] = 0
    assert np.array_equal(kept, audio[-100:])


def test_another_recording_after_a_reset() -> None:
    resampler = StreamResampler(44100, 16000)
    resampler.push(noise(5000))
    resampler.reset()
    assert np.array_equal(in_pieces(noise(3000), [700], resampler), resample(noise(3000), 44100, 16000))
    with pytest.raises(DataError, match=r"^resample: samples after the end, expected none; reset"):
        resampler.push(noise(1))


def test_what_cannot_be_resampled() -> None:
    with pytest.raises(DataError, match=r"^resample: rates 0 to 16000, expected positive"):
        StreamResampler(0, 16000)
    with pytest.raises(ShapeError, match=r"^resample: audio of shape \(2, 3\)"):
        StreamResampler(8000, 16000).push(np.zeros((2, 3), np.float32))
