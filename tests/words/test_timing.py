"""Words of real recordings: their times by every way that there is, and their confidence."""

from itertools import pairwise
from pathlib import Path

import byte_whisper
import numpy as np
import pytest
import small_audio_lm

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.audio.io import read_audio
from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.types import Request, Result
from speechmtp.words.timing import time_words
from speechmtp.words.word import Word

RATE = 16000
TEXT = "I opened my eyes upon a strange and weird landscape. I knew that I was on Mars."


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return speechmtp.load("default", "cpu")


@pytest.fixture(scope="module")
def reading() -> np.ndarray:
    return read_audio(speechmtp.example("reading"))[0]


def heard(recogniser: Recogniser, audio: np.ndarray) -> tuple[Request, Result]:
    request = recogniser.listen(audio)
    [result] = recogniser.decode([request], parse_strategy("ar"), None, Recorded(logprobs=True))
    return request, result


def words_of(recogniser: Recogniser, audio: np.ndarray, attention: bool = False) -> tuple[Word, ...]:
    request, result = heard(recogniser, audio)
    ctc = None if attention else recogniser.bundle.ctc
    return time_words(recogniser.bundle.model, ctc, request, result.tokens, result.trace.logprobs)


def check(words: tuple[Word, ...], seconds: float) -> None:
    """Monotone, and within the audio."""
    assert all(word.start is not None and word.end is not None for word in words)
    assert all(0 <= word.start <= word.end <= seconds for word in words)  # type: ignore[operator]
    assert all(a.end <= b.start for a, b in pairwise(words))  # type: ignore[operator]
    assert all(word.confidence is not None and 0 <= word.confidence <= 1 for word in words)


def starts(words: tuple[Word, ...]) -> np.ndarray:
    return np.array([word.start for word in words])


@pytest.mark.parametrize("attention", [False, True])
def test_words_move_with_the_audio(recogniser: Recogniser, reading: np.ndarray, attention: bool) -> None:
    plain = words_of(recogniser, reading, attention)
    check(plain, len(reading) / RATE)
    assert (
        " ".join(word.text for word in plain)
        == "I opened my eyes upon a strange and weird landscape. I knew that I was on Mars."
    )
    later = words_of(recogniser, np.concatenate([np.zeros(RATE, np.float32), reading]), attention)
    assert [word.text for word in later] == [word.text for word in plain]
    assert np.abs(starts(later) - starts(plain) - 1).max() < 0.15
    assert np.median(np.abs(starts(later) - starts(plain) - 1)) < 0.02


def test_both_ways_agree(recogniser: Recogniser, reading: np.ndarray) -> None:
    """Also on the pause between the two sentences, from 4.4 to 5.1 s."""
    one, other = words_of(recogniser, reading), words_of(recogniser, reading, attention=True)
    assert np.median(np.abs(starts(one) - starts(other))) < 0.05
    for words, within in ((one, 0.1), (other, 0.3)):
        assert words[9].end == pytest.approx(4.4, abs=within) and words[10].start == pytest.approx(5.1, abs=within)


def test_confidence(recogniser: Recogniser, reading: np.ndarray) -> None:
    request, result = heard(recogniser, reading)
    model, ctc = recogniser.bundle.model, recogniser.bundle.ctc
    words = time_words(model, ctc, request, result.tokens, result.trace.logprobs)
    every = sum(np.log(word.confidence) for word in words)  # type: ignore[arg-type]
    assert every == pytest.approx(sum(result.trace.logprobs[:-1]), abs=1e-6), "all but the end token's"
    assert all(word.confidence is None for word in time_words(model, ctc, request, result.tokens))


def test_more_words_than_the_audio_holds(recogniser: Recogniser, reading: np.ndarray) -> None:
    request = recogniser.listen(reading[:RATE])
    model = recogniser.bundle.model
    tokens = [*model.encode("word after word " * 30), *model.eos]
    for ctc in (recogniser.bundle.ctc, None):
        words = time_words(model, ctc, request, tokens, [-0.1] * len(tokens))
        assert len(words) == 90
        check(words, 1.0)


def test_silence_has_no_words(recogniser: Recogniser) -> None:
    request = recogniser.listen(np.zeros(RATE, np.float32))
    assert time_words(recogniser.bundle.model, recogniser.bundle.ctc, request, ()) == ()


def test_a_ctc_head_of_the_models_own(recogniser: Recogniser) -> None:
    an4 = speechmtp.load("an4", "cpu")
    audio, rate = read_audio(speechmtp.example("digits"))
    assert rate == RATE
    words = words_of(an4, audio)
    assert [word.text for word in words] == ["FOUR", "TWO", "SEVEN", "NINE"]
    check(words, len(audio) / RATE)
    tokens = recogniser.bundle.model.encode("Four two seven nine")
    other = time_words(recogniser.bundle.model, recogniser.bundle.ctc, recogniser.listen(audio), tokens)
    assert np.abs(starts(words) - starts(other)).max() < 0.15


def test_a_whisper_pads_with_silence_that_no_word_is_in(tmp_path: Path) -> None:
    whisper = speechmtp.load(str(byte_whisper.write_byte_whisper(tmp_path)), "cpu")
    audio = 0.1 * np.random.default_rng(0).normal(size=RATE // 2).astype(np.float32)
    request = whisper.listen(audio, language="en")
    tokens = whisper.bundle.model.encode("one two three")
    words = time_words(whisper.bundle.model, None, request, tokens, [0.0] * len(tokens))
    assert [word.text for word in words] == ["one", "two", "three"]
    check(words, 0.5)


def test_a_speech_lm_without_ctc_tells_no_times(tmp_path: Path) -> None:
    model = small_audio_lm.write_audio_lm(tmp_path)
    recogniser = speechmtp.load(str(model), "cpu")
    request = recogniser.listen(0.1 * np.random.default_rng(0).normal(size=RATE).astype(np.float32))
    tokens = recogniser.bundle.model.encode("one two")
    words = time_words(recogniser.bundle.model, None, request, tokens, [-1.0] * len(tokens))
    assert [(word.start, word.end) for word in words] == [(None, None)] * len(words) != []
    assert all(word.confidence is not None for word in words)
