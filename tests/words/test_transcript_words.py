"""Transcripts with words: the same texts and tokens, and segments that end at pauses behind sentences."""

import numpy as np
import pytest
import tiny

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.audio.io import read_audio
from speechmtp.errors import ConfigError
from speechmtp.transcripts import TimedWords, join_parts
from speechmtp.types import Request, Result, Trace
from speechmtp.words.group import WordTokens
from speechmtp.words.segments import cut_at_pauses, ends_sentence
from speechmtp.words.word import Word

RATE = 16000


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    return speechmtp.load(str(tiny.write_brief(tmp_path_factory.mktemp("tiny"))), "cpu", "float64")


def test_ends_of_sentences() -> None:
    assert all(map(ends_sentence, ("one.", 'one."', "one?)", "one!", "一。", "one...")))
    assert not any(map(ends_sentence, ("one", "one,", "3.5", '"')))


def test_cuts_need_punctuation_and_a_pause() -> None:
    words = [Word("a.", 0.0, 0.5), Word("b.", 0.6, 1.0), Word("c", 2.0, 2.5), Word("d.", 4.0, 4.5), Word("e.")]
    assert cut_at_pauses(words) == [(1, 1.5)]
    assert cut_at_pauses(words, 0.05) == [(0, 0.55), (1, 1.5)]
    assert cut_at_pauses(words, 9.0) == cut_at_pauses([]) == []


def test_segments_have_their_words_and_tokens() -> None:
    request = Request.__new__(Request)
    for name, value in (("audio_seconds", 4.0), ("listen_seconds", 0.5), ("language", "en")):
        object.__setattr__(request, name, value)
    trace = Trace(calls=4, emitted=5, finished=True, logprobs=[-1.0, -2.0, -3.0, -4.0, -5.0])
    results = [Result("so on. And on", (5, 6, 7, 8, 0), trace), Result("", (0,), Trace(emitted=1))]
    words = (Word("so", 0.1, 0.4), Word("on.", 0.5, 1.0), Word("And", 2.0, 2.4), Word("on", 2.5, 3.0))
    timed = TimedWords(words, tuple(WordTokens(word.text, n, n + 1) for n, word in enumerate(words)))
    parts = [request, request]
    found = join_parts(parts, results, 1.0, [timed, TimedWords((), ())])
    assert [(one.start, one.end, one.text, one.tokens, one.mean_logprob) for one in found.segments] == [
        (0.0, 1.5, "so on.", (5, 6), -1.5), (1.5, 4.0, "And on", (7, 8, 0), -4.0), (4.0, 8.0, "", (0,), None),
    ]  # fmt: skip
    assert found.words == words and [len(one.words) for one in found.segments] == [2, 2, 0]
    plain = join_parts(parts, results, 1.0)
    assert (found.text, found.tokens, found.trace) == (plain.text, plain.tokens, plain.trace) and plain.words == ()
    later = join_parts(parts[::-1], results[::-1], 1.0, [TimedWords((), ()), timed])
    assert [word.start for word in later.words] == [4.1, 4.5, 6.0, 6.5]


def test_words_change_no_text(brief: Recogniser) -> None:
    rng = np.random.default_rng(0)
    audio = np.concatenate([0.1 * rng.normal(size=20 * RATE), np.zeros(RATE), 0.1 * rng.normal(size=9 * RATE)])
    plain = brief.transcribe(audio, RATE, "ar", jobs=1)
    found = brief.transcribe(audio, RATE, "ar", jobs=1, words=True)
    assert (found.text, found.tokens, found.audio_seconds) == (plain.text, plain.tokens, plain.audio_seconds)
    assert plain.words == () and all(one.words == () for one in plain.segments)
    assert [word.text for word in found.words] == found.text.split()
    times = [time for word in found.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] > 20  # type: ignore[type-var, operator]
    assert all(word.confidence is not None for word in found.words)


def test_a_reading_has_two_segments() -> None:
    recogniser = speechmtp.load("default", "cpu")
    [first, second] = recogniser.transcribe(speechmtp.example("reading"), words=True).segments
    assert first.text == "I opened my eyes upon a strange and weird landscape."
    assert first.start == 0 and 4.4 < first.end == second.start < 5.1
    assert second.end == pytest.approx(len(read_audio(speechmtp.example("reading"))[0]) / RATE)
    [whole] = recogniser.transcribe(speechmtp.example("reading"), words=True, pause=5.0).segments
    assert whole.words == first.words + second.words
    with pytest.raises(ConfigError, match="pause=-1"):
        recogniser.transcribe(speechmtp.example("reading"), pause=-1)


def test_words_that_no_trunk_emitted_have_no_confidence() -> None:
    """`ctc-only` calls no trunk, so that its words have times and no confidence."""
    found = speechmtp.load("an4", "cpu").transcribe(speechmtp.example("digits"), strategy="ctc-only", words=True)
    assert [word.text for word in found.words] == ["FOUR", "TWO", "SEVEN", "NINE"]
    assert all(word.start is not None and word.confidence is None for word in found.words)
