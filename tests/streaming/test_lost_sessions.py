"""A session that is lost at any time goes on in another one: nothing is said twice, nothing is missing."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny
from spoken import PLAIN, RATE, Listener, silence, word
from test_session import committed, fed_by, talk

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.audio.io import read_audio
from speechmtp.streaming.checkpoint import Checkpoint
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.events import Committed, Ended, Final, SpeechStarted, SpeechStopped, StreamEvent
from speechmtp.streaming.stream import RecognitionStream


def through_text(found: Checkpoint) -> Checkpoint:
    """A checkpoint that was written and read."""
    return Checkpoint.from_json(json.loads(json.dumps(found.to_json())))


def moved(events: Sequence[StreamEvent], seconds: float) -> list[StreamEvent]:
    """Events that many seconds later."""
    found: list[Any] = []
    for event in events:
        times = {name: getattr(event, name) + seconds for name in ("start", "end", "time") if hasattr(event, name)}
        found.append(replace(event, **times))
    return found


def disturbed(audio: np.ndarray, flushes: Sequence[int], seed: int, config: StreamConfig = PLAIN) -> list[StreamEvent]:
    """What is said of audio with flushes at these samples, by sessions that are lost at random, between passes or while
    one is due. A new one is given the audio from the checkpoint, and the flushes that were not answered."""
    draw, listener, begin, at = random.Random(seed), Listener(config), 0, 0
    events, lost, waiting = list[StreamEvent](), 0, list[int]()
    marks = [*flushes, len(audio)]

    def give(start: int, end: int) -> None:
        for flush in [flush for flush in waiting if flush <= end]:
            listener.session.feed(audio[start:flush])
            listener.session.flush()
            start = flush
        listener.session.feed(audio[start:end])

    def say(new: Sequence[StreamEvent]) -> None:
        events.extend(moved(new, begin / RATE))
        for event in new:
            if isinstance(event, Final) and event.flush is not None:
                waiting.pop(0)

    while at < len(audio):
        end = min(at + draw.choice([160, 1600, 4000, 9000, 30000]), min(mark for mark in marks if mark > at))
        listener.session.feed(audio[at:end])
        if end in flushes:
            waiting.append(end)
            listener.session.flush()
        at = end
        if draw.random() < 0.3:
            listener.session.next_pass()
            say(listener.session.events())
            point = through_text(listener.session.checkpoint())
            begin, lost = begin + round(point.at * RATE), lost + 1
            listener = Listener(config, resume=point)
            give(begin, at)
        if draw.random() < 0.8:
            say(listener.answer())
    say(listener.answer())
    say(listener.finish())
    assert lost > 1 and not waiting
    return events


def undisturbed(audio: np.ndarray, flushes: Sequence[int], config: StreamConfig = PLAIN) -> list[StreamEvent]:
    """What one session says of the same."""
    listener, events = Listener(config), list[StreamEvent]()
    for start, end in pairwise([0, *flushes, len(audio)]):
        events += listener.feed(audio[start:end])
        events += listener.flush() if end in flushes else []
    return events + listener.finish()


@pytest.mark.parametrize("seed", range(12))
def test_sessions_that_are_lost_say_the_same_as_one_that_is_not(seed: int) -> None:
    audio, said = talk(seed, words=60, pauses=(0.0, 0.1, 0.4)[seed % 3])
    gaps = np.flatnonzero((audio == 0) & (np.roll(audio, 1) != 0))  # behind words
    flushes = sorted(map(int, np.random.default_rng(seed).choice(gaps, seed % 4, replace=False)))
    events, plain = disturbed(audio, flushes, seed), undisturbed(audio, flushes)
    assert committed(events) == committed(plain) and committed(events).split() == said
    assert [word.text for event in events if isinstance(event, Committed) for word in event.words] == said
    finals = [[event for event in each if isinstance(event, Final)] for each in (events, plain)]
    assert [(one.text, one.flush is None, one.reason) for one in finals[0]] == [
        (one.text, one.flush is None, one.reason) for one in finals[1]
    ]
    for mine, other in zip(*finals):
        assert (mine.start, mine.end) == pytest.approx((other.start, other.end), abs=0.05)
        assert [word.text for word in mine.words] == [word.text for word in other.words]
    for kind in (SpeechStarted, SpeechStopped, Ended):
        assert sum(isinstance(event, kind) for event in events) == sum(isinstance(event, kind) for event in plain)


def test_a_checkpoint_needs_the_open_window_and_no_more() -> None:
    audio = np.concatenate([silence(5), *(word(k) for k in range(1, 9)), silence(3)])
    listener, ats = Listener(), list[float]()
    for start in range(0, len(audio), 512):
        listener.feed(audio[start : start + 512])
        point = listener.session.checkpoint()
        ats.append(point.at)
        assert len(json.dumps(point.to_json())) < 3000
        assert listener.session._audio.begin <= round(point.at * RATE), "what it needs is kept"
    assert ats == sorted(ats) and 7.5 < ats[-1] < 10.3
    opened = [at for at in ats if at == pytest.approx(4.7, abs=0.04)]
    assert len(opened) > 60, "from 0.3 s before the speech on, while its segment goes on"


def test_a_tail_that_was_said_is_cleared_by_the_next_session() -> None:
    audio = np.concatenate([silence(1), word(1), word(2), word(3)])
    listener = Listener()
    listener.feed(audio)
    [*_, tail] = [event.text for event in listener.events if hasattr(event, "text")]
    assert tail
    resumed = Listener(resume=through_text(listener.session.checkpoint()))
    window = resumed.session._window
    assert window is not None and window.tail == tail


def test_spaces_between_segments_stay_where_sessions_change() -> None:
    listener = Listener()
    listener.feed(np.concatenate([silence(1), word(1), silence(1)]))
    point = through_text(listener.session.checkpoint())
    assert point.spoken and point.window is None
    resumed = Listener(resume=point)
    resumed.feed(np.concatenate([silence(1), word(2), silence(1)]))
    assert committed(listener.events) + committed(resumed.events) == "w1 w2"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    """A tiny model that says a few letters of anything."""
    return speechmtp.load(tiny.write_brief(tmp_path_factory.mktemp("models") / "brief"), dtype="float64")


@pytest.mark.parametrize("seed", range(3))
def test_a_real_model_goes_on_where_it_was(model: Recogniser, seed: int) -> None:
    audio = np.tile(read_audio(speechmtp.example("reading"))[0].astype(np.float32)[12000:], 2)
    config, draw = StreamConfig(words=False), random.Random(seed)
    plain = RecognitionStream(model, config)
    whole = [*plain.feed(audio), *plain.finish()]
    stream, events, begin = RecognitionStream(model, config), list[StreamEvent](), 0
    for start in range(0, len(audio), 4000):
        events += moved(stream.feed(audio[start : start + 4000]), begin / RATE)
        if draw.random() < 0.2:
            point = through_text(stream.session.checkpoint())
            begin += round(point.at * RATE)
            stream = RecognitionStream(model, config, resume=point)
            events += moved(stream.feed(audio[begin : start + 4000]), begin / RATE)
    events += moved(stream.finish(), begin / RATE)
    assert committed(events) == committed(whole) and len(committed(whole)) > 5
    texts = [[event.text for event in each if isinstance(event, Final)] for each in (events, whole)]
    assert texts[0] == texts[1]


def test_segments_need_not_be_kept() -> None:
    audio, _ = talk(5)
    for keep in (True, False):
        listener = fed_by(audio, [1600], Listener(replace(PLAIN, keep=keep)))
        assert bool(listener.session.result().segments) == keep and committed(listener.events)


def test_audio_before_an_open_window_is_forgotten() -> None:
    listener, words = Listener(replace(PLAIN, pause=10.0, shortest=4.0, longest=5.0)), [word(1), word(2), word(3)]
    kept = 0
    for _ in range(60):  # without a pause
        listener.feed(np.concatenate(words))
        kept = max(kept, listener.session._audio.end - listener.session._audio.begin)
    assert kept < 7 * RATE
