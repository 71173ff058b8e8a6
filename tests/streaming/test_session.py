"""A session: every word once and for good, however audio arrives, wherever segments end."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from spoken import COUNT, PLAIN, RATE, WORD, Listener, silence, word

from speechmtp.audio.endpoint import ActivityConfig
from speechmtp.errors import ConfigError, DataError
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.events import Committed, Ended, Final, SpeechStarted, SpeechStopped, StreamEvent, Tail


def talk(seed: int, words: int = 40, pauses: float = 0.2) -> tuple[np.ndarray, list[str]]:
    """Random words, no two alike in a row, with pauses of up to 2 s between some; and their text."""
    rng = np.random.default_rng(seed)
    parts, said = [silence(float(rng.uniform(0, 1)))], [0]
    for _ in range(words):
        said.append(int(rng.choice([k for k in range(1, COUNT + 1) if k != said[-1]])))
        parts.append(word(said[-1]))
        if rng.random() < pauses:
            parts.append(silence(float(rng.uniform(0, 2))))
    return np.concatenate(parts), [f"w{k}" for k in said[1:]]


def committed(events: list[StreamEvent]) -> str:
    """The transcript by its committed pieces."""
    return "".join(event.text for event in events if isinstance(event, Committed))


def fed_by(audio: np.ndarray, sizes: list[int], listener: Listener | None = None) -> Listener:
    """A listener that was fed pieces of these sizes, over and over, and finished."""
    listener = listener or Listener()
    start, turn = 0, 0
    while start < len(audio):
        size = sizes[turn % len(sizes)]
        listener.feed(audio[start : start + size])
        start, turn = start + size, turn + 1
    listener.finish()
    return listener


@pytest.mark.parametrize("seed", range(12))
def test_every_word_is_said_once_and_in_order(seed: int) -> None:
    audio, said = talk(seed, pauses=(0.0, 0.05, 0.3)[seed % 3])
    events = fed_by(audio, [1600]).events
    finals = [event for event in events if isinstance(event, Final)]
    assert committed(events).split() == said
    assert " ".join(final.text for final in finals if final.text) == committed(events)
    assert [w.text for event in events if isinstance(event, Committed) for w in event.words] == said
    assert isinstance(events[-1], Ended) and [type(e) for e in events].count(Ended) == 1
    assert all(final.end - final.start <= 25.04 for final in finals)
    assert all(one.end <= other.start + 1e-9 for one, other in pairwise(finals))
    times = [event.time for event in events]
    assert times == sorted(times) and times[-1] == pytest.approx(len(audio) / RATE)


@pytest.mark.parametrize("sizes", [[1], [320], [1280], [16000], [7, 5000, 300, 12345], [10**9]])
def test_pieces_do_not_matter(sizes: list[int]) -> None:
    audio, _ = talk(3, words=14 if sizes == [1] else 40)
    assert fed_by(audio, sizes).events == fed_by(audio, [4000]).events


def test_a_result_has_the_segments() -> None:
    audio, said = talk(5)
    listener = fed_by(audio, [1600])
    result = listener.session.result()
    finals = [event for event in listener.events if isinstance(event, Final)]
    assert result.text.split() == said and result.text == committed(listener.events)
    assert [(s.start, s.end, s.text) for s in result.segments] == [(f.start, f.end, f.text) for f in finals if f.text]
    assert result.trace.calls == len(listener.passes)


def test_words_are_committed_a_step_after_they_were_first_heard() -> None:
    audio, _ = talk(1, pauses=0.0)
    listener = fed_by(audio, [512])
    started = next(event.start for event in listener.events if isinstance(event, SpeechStarted))
    delays = []
    for event in listener.events:
        if isinstance(event, Committed):
            for w in event.words:
                place = [f"w{k}" for k in np.rint(audio * 32).astype(int)[:: WORD // 8]].index(w.text)
                delays.append(event.time - place * (WORD // 8) / RATE)
    assert started < 1.1
    assert np.median(delays) < 1.3


def test_outside_speech_nothing_is_decoded() -> None:
    listener = fed_by(np.concatenate([silence(60), word(3), silence(60)]), [1600])
    assert listener.passes and all(len(due.samples) < 3 * RATE for due in listener.passes)
    assert sum(len(due.samples) for due in listener.passes) < 5 * RATE
    assert committed(listener.events) == "w3"
    kept = listener.session._audio
    assert kept.end - kept.begin < RATE
    assert fed_by(silence(600), [16000]).events == [Ended(600.0)]


def test_speech_starts_and_stops_around_the_words() -> None:
    audio = np.concatenate([silence(1), word(1), word(2), silence(2), word(3), silence(1)])
    events = fed_by(audio, [1600]).events
    starts = [event.start for event in events if isinstance(event, SpeechStarted)]
    stops = [event.end for event in events if isinstance(event, SpeechStopped)]
    assert starts == pytest.approx([1.0, 3.56], abs=0.05) and stops == pytest.approx([1.56, 3.84], abs=0.05)


def test_a_tail_replaces_the_one_before_and_is_said_when_it_changes() -> None:
    events = fed_by(talk(2, pauses=0)[0], [1600]).events
    tails = [event.text for event in events if isinstance(event, Tail)]
    assert len(tails) > 5 and all(a != b for a, b in pairwise(tails))


@pytest.mark.parametrize("seed", range(6))
def test_flushes_are_answered_once_each_in_order_and_no_word_is_lost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    audio, said = talk(seed, 30, 0.3)
    gaps = np.flatnonzero((audio == 0) & (np.roll(audio, 1) != 0))  # behind words
    listener, last, count = Listener(), 0, 0
    for place in sorted(rng.choice(gaps, 8, replace=False)):
        listener.session.feed(audio[last:place])
        for _ in range(int(rng.integers(1, 3))):
            count += 1
            assert listener.session.flush() == count
        last = int(place)
    listener.feed(audio[last:])
    listener.finish()
    answers = [e.flush for e in listener.events if isinstance(e, Final) and e.flush is not None]
    assert answers == list(range(1, count + 1))
    assert committed(listener.events).split() == said


def test_a_flush_without_speech_is_answered_by_nothing() -> None:
    listener = Listener()
    assert listener.flush() == [Final("", (), 0.0, 0.0, "flush", 0.0, 1)]
    listener.feed(silence(1))
    assert listener.flush() == [Final("", (), 1.0, 1.0, "flush", 1.0, 2)]
    assert listener.finish() == [Ended(1.0)]


def test_silence_behind_a_flush_is_not_decoded_and_a_word_behind_it_is() -> None:
    padded = ActivityConfig(min_silence_ms=500, speech_pad_ms=1000)  # the pause belongs to the segment up to its end
    listener = Listener(replace(PLAIN, activity=padded))
    listener.feed(np.concatenate([word(1), silence(0.3)]))
    listener.flush()
    decoded = len(listener.passes)
    assert [type(event) for event in listener.feed(silence(1.0))] == [SpeechStopped, Final]
    assert len(listener.passes) == decoded
    listener.feed(np.concatenate([word(2), silence(0.1)]))
    listener.flush()
    listener.feed(np.concatenate([silence(0.2), word(3), silence(1.0)]))
    assert committed(listener.events).split() == ["w1", "w2", "w3"]


def test_a_word_that_has_just_begun_is_heard_at_the_end() -> None:
    assert committed(fed_by(np.concatenate([silence(1), word(5)[:2500]]), [1600]).events) == "w5"
    assert committed(fed_by(np.concatenate([silence(1), word(5)[:1000]]), [1600]).events) == ""  # too short for speech


def test_a_full_window_ends_where_speech_is_least_likely() -> None:
    audio, said = talk(7, words=150, pauses=0)
    listener = fed_by(audio, [1600], Listener(replace(PLAIN, pause=10.0, shortest=20.0)))
    finals = [event for event in listener.events if isinstance(event, Final)]
    assert {final.reason for final in finals[:-1]} == {"full"} and len(finals) == 2
    assert committed(listener.events).split() == said


def test_a_pause_ends_a_window_the_sooner_the_longer_it_is() -> None:
    config = replace(PLAIN, pause=0.4)
    assert config.needed_pause(10) == pytest.approx(0.4) and config.needed_pause(17.5) == pytest.approx(0.2)
    parts = [part for k in range(40) for part in (word(1 + k % COUNT), silence(0.25))]
    finals = [e for e in fed_by(np.concatenate(parts), [1600], Listener(config)).events if isinstance(e, Final)]
    assert finals[0].reason == "pause" and 10 < finals[0].end - finals[0].start < 19


def test_a_model_that_hears_less_gets_shorter_windows() -> None:
    audio, said = talk(8, words=60, pauses=0)
    listener = fed_by(audio, [1600], Listener(replace(PLAIN, shortest=5.0), longest=8.0))
    assert max(len(due.samples) for due in listener.passes) <= 8.04 * RATE
    assert committed(listener.events).split() == said


def test_doubtful_segments_are_dropped_and_sure_ones_are_not() -> None:
    audio = np.concatenate([silence(0.5), word(1), word(2), word(3), word(4), silence(1)])
    doubt = replace(PLAIN, activity_floor=0.8, confidence_floor=0.5)
    for loudness, confidence, dropped in ((0.7, 0.3, True), (0.7, 0.9, False), (1.0, 0.3, False)):
        listener = fed_by(audio, [1600], Listener(doubt, confidence, loudness))
        [final] = [event for event in listener.events if isinstance(event, Final)]
        assert final.dropped == dropped and (committed(listener.events) == "") == dropped
        assert (listener.session.result().text == "") == dropped


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        (np.zeros((10, 2), np.float32), "one channel"),
        (np.array([0, np.nan], np.float32), "not finite"),
        (np.array([0, np.inf], np.float32), "not finite"),
        (np.array([0, 1000.5], np.float32), "up to 1000.5"),
    ],
)
def test_bad_samples_leave_a_session_as_it_was(samples: np.ndarray, problem: str) -> None:
    audio, said = talk(4, words=10)
    listener = Listener()
    listener.feed(audio[:20000])
    with pytest.raises(DataError, match=problem):
        listener.session.feed(samples)
    listener.feed(audio[20000:])
    listener.finish()
    assert committed(listener.events).split() == said


def test_what_comes_too_late_or_at_another_rate_is_an_error() -> None:
    listener = Listener()
    for rate in (0, -1, float("nan"), 10**9):
        with pytest.raises((ConfigError, DataError), match="rate"):
            listener.session.feed(silence(1), rate)
    listener.feed(silence(1))
    with pytest.raises(ConfigError, match="8000 Hz"):
        listener.session.feed(silence(1), 8000)
    listener.finish()
    for act in (lambda: listener.session.feed(silence(1)), listener.session.flush, listener.session.finish):
        with pytest.raises(ConfigError, match="finish"):
            act()


def test_another_rate_says_the_same() -> None:
    audio, said = talk(6, words=20)
    listener = Listener()
    twice = np.repeat(audio, 2)  # 32 kHz
    for start in range(0, len(twice), 3000):
        listener.session.feed(twice[start : start + 3000], 32000)
        listener.answer()
    listener.finish()
    assert committed(listener.events).split() == said


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="shortest"):
        StreamConfig(shortest=25.0)
    with pytest.raises(ConfigError, match="step"):
        StreamConfig(step=0.0)
