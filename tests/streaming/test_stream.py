"""Streams of the embedded models: what they say does not depend on how audio arrives."""

import numpy as np
import pytest

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.audio.io import read_audio
from speechmtp.errors import ConfigError
from speechmtp.streaming.agreement import bare
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.events import Committed, Ended, Final, StreamEvent
from speechmtp.streaming.stream import RecognitionStream


@pytest.fixture(scope="module", params=["default", "an4"])
def recogniser(request: pytest.FixtureRequest) -> Recogniser:
    """An encoder-decoder with a CTC draft head, and a speech LLM with a CTC head of its own."""
    return speechmtp.load(request.param, device="cpu")


@pytest.fixture(scope="module")
def audio(recogniser: Recogniser) -> np.ndarray:
    """A few seconds of speech."""
    name = "reading" if recogniser.bundle.name == "default" else "digits"
    return read_audio(speechmtp.example(name))[0][: 5 * 16000]


def events_of(stream: RecognitionStream, audio: np.ndarray, sizes: list[int]) -> list[StreamEvent]:
    """All events of a stream that is fed pieces of these sizes, over and over."""
    events, start, turn = list[StreamEvent](), 0, 0
    while start < len(audio):
        size = sizes[turn % len(sizes)]
        events += stream.feed(audio[start : start + size])
        start, turn = start + size, turn + 1
    return events + stream.finish()


@pytest.fixture(scope="module")
def whole(recogniser: Recogniser, audio: np.ndarray) -> list[StreamEvent]:
    """The events of audio that is fed at once."""
    return events_of(recogniser.create_stream(), audio, [len(audio)])


@pytest.mark.parametrize("sizes", [[1], [320], [1280], [16000], [37, 9000, 1, 2500]])
def test_pieces_do_not_matter(
    sizes: list[int], recogniser: Recogniser, audio: np.ndarray, whole: list[StreamEvent]
) -> None:
    if sizes == [1]:
        audio = audio[:24000]
        whole = events_of(recogniser.create_stream(), audio, [24000])
    assert events_of(recogniser.create_stream(), audio, sizes) == whole


def test_words_have_times_and_confidence(audio: np.ndarray, whole: list[StreamEvent]) -> None:
    words = [word for event in whole if isinstance(event, Committed) for word in event.words]
    assert len(words) >= 4 and isinstance(whole[-1], Ended)
    finals = [word for event in whole if isinstance(event, Final) for word in event.words]  # with their punctuation
    assert [(one.start, one.end, one.confidence) for one in finals] == [(w.start, w.end, w.confidence) for w in words]
    assert [bare(one.text) for one in finals] == [bare(word.text) for word in words]
    last = 0.0
    for word in words:
        assert word.start is not None and word.end is not None and word.confidence is not None
        assert last <= word.start <= word.end <= len(audio) / 16000 and 0 <= word.confidence <= 1
        last = word.end


def test_without_word_times_the_text_is_the_same(
    recogniser: Recogniser, audio: np.ndarray, whole: list[StreamEvent]
) -> None:
    events = events_of(recogniser.create_stream(StreamConfig(words=False)), audio, [5000])
    texts = [[event.text for event in found if isinstance(event, Committed)] for found in (events, whole)]
    assert texts[0] == texts[1]
    assert all(word.start is None for event in events if isinstance(event, Committed) for word in event.words)


def test_a_result_says_what_was_committed(recogniser: Recogniser, audio: np.ndarray) -> None:
    stream = recogniser.create_stream()
    text = "".join(event.text for event in events_of(stream, audio, [4000]) if isinstance(event, Committed))
    result = stream.result()
    assert str(result) == text and result.words and result.trace.calls > 0
    assert " ".join(segment.text for segment in result.segments) == text


@pytest.mark.parametrize("size", [0, 1, 300, 700])
def test_less_than_an_encoder_takes_is_nothing(size: int, recogniser: Recogniser) -> None:
    stream = recogniser.create_stream()
    assert stream.feed(np.zeros(size, np.float32)) == []
    assert isinstance(stream.flush()[-1], Final)
    assert isinstance(stream.finish()[-1], Ended)
    assert stream.result().text == ""


def test_strategies_that_do_not_suit_are_refused(recogniser: Recogniser) -> None:
    with pytest.raises(ConfigError, match="draft model"):
        recogniser.create_stream(StreamConfig(strategy="draft-model"))
