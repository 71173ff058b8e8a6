"""The codec that is installed: what its tokens ask for is heard."""

from pathlib import Path

import numpy as np
import pytest

from speechmtp.codec.contract import Spans
from speechmtp.codec.curves import energy
from speechmtp.codec.folder import default_codec, load_codec
from speechmtp.g2p.symbols import PAD, SYMBOLS

PHONES, FRAMES = "ɑlmɑnɑ", (24, 30, 12, 16, 30, 14, 30, 24)
IDS = [PAD, *(SYMBOLS[symbol] for symbol in PHONES), PAD]
SPANS = Spans(np.array(IDS), np.zeros(len(IDS), np.int64), np.array(FRAMES))
VOICED = range(10, 47)  # tokens of the phones


@pytest.fixture(scope="module")
def codec():
    return load_codec(default_codec())


def asked(codec, f0: int, loud: int) -> np.ndarray:
    tokens = [codec.token(f0, loud) if t in VOICED else 0 for t in range(SPANS.tokens)]
    return codec.decode(tokens, SPANS, 1)


def pitch(samples: np.ndarray) -> float:
    """F0 in Hz by the peak of the autocorrelation between 100 and 400 Hz."""
    found = np.correlate(samples, samples, "full")[len(samples) - 1 :]
    return 24000 / (60 + int(found[60:240].argmax()))


def test_it_is_small_and_its_origin_is_told() -> None:
    folder: Path = default_codec()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 6.6e6
    assert "Kokoro-82M" in (folder / "NOTICE").read_text() and "hibari" in (folder / "card.md").read_text()


def test_there_are_as_many_ids_as_a_language_model_can_have(codec) -> None:
    assert codec.size == 204 == codec.config.levels.size and codec.rate == 24000


@pytest.mark.parametrize("level", [4, 9, 13])
def test_the_level_of_f0_is_heard(codec, level: int) -> None:
    samples = asked(codec, level, 9)
    assert pitch(samples[20000:30000]) == pytest.approx(codec.config.levels.f0_table[level], rel=0.03)


def test_the_level_of_energy_is_heard_and_silence_is_silent(codec) -> None:
    means = []
    for level in (6, 8, 10):
        samples = asked(codec, 7, level)
        means.append(float(energy(samples)[50:140].mean()))
        assert np.abs(samples[:2400]).max() < 0.02 and np.abs(samples).max() < 1
    wanted = codec.config.levels.energy_table[[6, 8, 10]]
    assert np.abs(np.array(means) - wanted).max() < 1.6  # no teacher's units: they have an energy of their own
    assert np.diff(means) == pytest.approx(np.diff(wanted), abs=1.2) and means[2] - means[0] > 3


def test_units_are_heard(codec) -> None:
    other = [PAD, *(SYMBOLS[symbol] for symbol in "isismi"), PAD]
    tokens = [codec.token(7, 9) if t in VOICED else 0 for t in range(SPANS.tokens)]
    one, two = (np.abs(np.fft.rfft(codec.decode(tokens, spans, 1)[5000:40000])) for spans in (
        SPANS, Spans(np.array(other), SPANS.words, SPANS.frames)
    ))  # fmt: skip
    half = len(one) // 3  # from 4 kHz up, where s is
    assert (two[half:] ** 2).mean() > 4 * (one[half:] ** 2).mean()
