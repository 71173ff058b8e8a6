"""Words of references with their times, however the model tells them, and runs that cannot be."""

from dataclasses import replace
from statistics import median

import pytest

import speechmtp
from speechmtp.api import Recogniser, load
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.evaluation.latency import LiveSet, Meter, open_live_set, reference_words, run_latency
from speechmtp.evaluation.settings import EvaluationSettings
from speechmtp.types import Request, Result
from speechmtp.words.word import Word

SAID = "I opened my eyes upon a strange and weird landscape. I knew that I was on Mars."
FOLDER = str(speechmtp.example("reading").parent)


@pytest.fixture(scope="module")
def live() -> LiveSet:
    """The package's example of speech, and a model of its own."""
    return open_live_set(EvaluationSettings(FOLDER, device="cpu", root=FOLDER))


@pytest.fixture(scope="module")
def heard(live: LiveSet) -> tuple[Request, Result]:
    """Its request and what `ar` makes of it."""
    request = live.recogniser.listen(live.audio["reading"])
    return request, live.recogniser.decode([request], parse_strategy("ar"))[0]


def test_the_transcript_is_aligned_by_the_ctc_head(live: LiveSet, heard: tuple[Request, Result]) -> None:
    words = reference_words(live.recogniser, [heard], live.transcripts["reading"])
    assert " ".join(word.text for word in words) == live.transcripts["reading"]
    ends = [word.end for word in words if word.end is not None]
    assert len(ends) == 17 and ends == sorted(ends) and 6.0 < ends[-1] < live.seconds


def test_without_a_ctc_head_what_ar_says_is_aligned(live: LiveSet, heard: tuple[Request, Result]) -> None:
    other: Recogniser = load("default", "cpu")
    other.bundle.ctc = None
    words = reference_words(other, [heard], "other words")
    assert " ".join(word.text for word in words) == SAID and all(word.end is not None for word in words)
    pairs = zip(words, reference_words(live.recogniser, [heard], SAID))
    assert median(abs((one.end or 0.0) - (two.end or 0.0)) for one, two in pairs) < 0.15


def test_a_recording_in_parts_and_a_silent_one_have_no_times(live: LiveSet, heard: tuple[Request, Result]) -> None:
    words = (Word("TWO"), Word("WORDS"))
    assert reference_words(live.recogniser, [heard, heard], "TWO WORDS") == words
    silent = live.recogniser.listen(0 * live.audio["reading"])
    assert reference_words(live.recogniser, [(silent, heard[1])], "TWO WORDS") == words


def test_a_meter_counts_and_asks_the_model(live: LiveSet) -> None:
    meter = Meter(live.recogniser)
    request = meter.listen(live.audio["reading"])
    [result] = meter.decode([request], parse_strategy("ar"))
    assert result.text == SAID and meter.rate == 16000 and meter.time_words(request, result.tokens)[0].text == "I"
    assert (meter.passes, meter.calls) == (1, result.trace.calls)
    assert meter.encoder > 0 and meter.decoder > 0 and meter.words > 0


def test_what_cannot_be_run_is_an_error(live: LiveSet) -> None:
    with pytest.raises(ConfigError, match="nothing to run"):
        run_latency(live, {})
    with pytest.raises(ConfigError, match="text LM"):
        open_live_set(replace(EvaluationSettings(FOLDER), max_new_tokens=3))
