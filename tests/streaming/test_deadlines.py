"""Which pass comes first: ends before growing windows, live before fast, and nobody starves."""

from dataclasses import replace

import numpy as np
import pytest
from spoken import COUNT, PLAIN, RATE, silence, word
from spoken_model import Room, Speaker, SpokenModel, plain_activity
from test_session import talk

from speechmtp.streaming.config import EngineConfig
from speechmtp.streaming.engine import SessionEngine
from speechmtp.streaming.events import Final, Tail

FAST = 1e9


def chatter(words: int, pause: float = 0.0, first: int = 1) -> tuple[np.ndarray, str]:
    """Words one after another, with a pause behind each fifth; and their text."""
    numbers = [1 + (first + k) % COUNT for k in range(words)]
    parts = [part for k, n in enumerate(numbers) for part in ([word(n), silence(pause)] if k % 5 == 4 else [word(n)])]
    return np.concatenate([silence(0.5), *parts, silence(1)]), " ".join(f"w{n}" for n in numbers)


def test_audio_that_comes_fast_is_not_late() -> None:
    audio, text = chatter(12)  # 4.9 s
    room = Room(SpokenModel(fixed=0.3), [Speaker(audio, speed=FAST, piece=100.0)])
    room.run()
    assert room.speakers[0].text == text and room.now > 1.5
    assert not room.crowded and room.lateness == 0.0
    assert len(room.model.windows) > 5, "growing, as nobody else wants anything"


def test_who_is_behind_is_decoded_a_whole_segment_at_a_time() -> None:
    audio, text = chatter(60, pause=0.7)
    [speaker] = speakers = [Speaker(audio, speed=FAST, piece=100.0)]
    room = Room(SpokenModel(), speakers)
    room.run()
    finals = [event for _, event in speaker.said if isinstance(event, Final)]
    assert speaker.text == text and len(finals) == 12
    assert len(room.model.windows) <= len(finals) + 10, "a pass a segment, but for the last five seconds"
    assert sum(isinstance(event, Tail) for _, event in speaker.said) < 10
    live = Room(SpokenModel(), [Speaker(audio)])
    live.run()
    assert live.speakers[0].text == text and len(live.model.windows) > 40


def test_who_has_caught_up_is_live_again() -> None:
    audio, text = chatter(60)
    burst = round(15.0 * RATE)
    model = SpokenModel()
    with plain_activity():
        engine = SessionEngine(model, EngineConfig(together=1))  # type: ignore[arg-type]
        handle = engine.open(PLAIN)
        engine.feed(handle, audio[:burst], RATE, 0.0)
        events = [event for _, event in engine.step(0.0)]
        assert engine.waiting == 0 and not any(isinstance(event, Tail) for event in events)
        before = len(model.windows)
        for start in range(burst, len(audio), 1600):
            now = (start + 1600 - burst) / RATE
            engine.feed(handle, audio[start : start + 1600], RATE, now)
            events += [event for _, event in engine.step(now)]
            assert engine.lateness == 0.0
        assert len(model.windows) - before >= 2 * (len(audio) - burst) / RATE - 3, "every half second"
        engine.finish(handle, now)
        events += [event for _, event in engine.step(now)]
    assert " ".join(event.text for event in events if isinstance(event, Final) and event.text) == text


def test_a_gap_is_no_reason_to_call_what_comes_fast_late() -> None:
    audio, _ = chatter(12)
    with plain_activity():
        engine = SessionEngine(SpokenModel(), EngineConfig(together=1))  # type: ignore[arg-type]
        handle = engine.open(PLAIN)
        engine.feed(handle, silence(0.5), RATE, 0.0)
        engine.step(0.0)
        engine.feed(handle, audio, RATE, 100.0)  # 4.9 s at once, after 100 s
        [one] = engine._open()
        for _ in range(20):
            engine.step(100.0)
        assert one.origin is not None and one.origin >= 100.0 - 5.0 - 0.5 - len(audio) / RATE - 0.01
        assert not engine.crowded


def test_an_end_comes_before_growing_windows_and_alone_of_them() -> None:
    model = SpokenModel()
    with plain_activity():
        engine = SessionEngine(model, EngineConfig(together=4))  # type: ignore[arg-type]
        handles = [engine.open(PLAIN) for _ in range(5)]
        for handle in handles:
            size = 6000 if handle == handles[3] else 13000
            engine.feed(handle, np.concatenate([word(1), word(2), word(3)])[:size], RATE, 10.0)
        engine.flush(handles[3], 10.0)
        engine.feed(handles[4], silence(0.6), RATE, 10.2)  # its endpoint, behind a growing pass
        order = list[list[int]]()
        while not order or engine.waiting:
            engine.step(10.2, lambda chosen: order.append([one.slot for one in chosen]))
    assert order[0] == [3], "the flush, due first"
    assert sorted(order[1]) == [0, 1, 2, 4] and order[2] == [4]


def test_a_pause_that_cuts_is_not_urgent_and_an_endpoint_is() -> None:
    config = replace(PLAIN, shortest=1.0, longest=20.0, pause=0.1)
    with plain_activity():
        engine = SessionEngine(SpokenModel(), EngineConfig(together=1))  # type: ignore[arg-type]
        paused, ended = engine.open(config), engine.open(PLAIN)
        for handle in (paused, ended):
            engine.feed(handle, np.concatenate([word(k) for k in (1, 2, 3, 4, 5)]), RATE, 0.0)
        while engine.step(0.0) or engine.waiting:
            pass
        engine.feed(paused, silence(0.2), RATE, 0.0)
        engine.feed(ended, silence(0.55), RATE, 0.0)
        engine.look(0.0)
        found = {one.handle: one for one in engine._open()}
        assert found[paused].due is not None and found[paused].due.reason == "pause"
        assert found[paused].urgency == "growing"
        while found[ended].due is None or found[ended].due.reason is None:
            engine._run([found[ended]])
            engine.look(0.0)
        assert found[ended].due.reason == "endpoint" and found[ended].urgency == "last"


def test_who_is_alone_is_decoded_alone() -> None:
    speakers = [Speaker(talk(seed, 20)[0], alone=seed == 1) for seed in range(4)]
    room = Room(SpokenModel(fixed=0.1), speakers, EngineConfig(slots=8, together=8))
    batches = list[list[int]]()
    run = SessionEngine._run

    def recorded(engine: SessionEngine, taken: list) -> None:  # type: ignore[type-arg]
        batches.append([one.handle.slot for one in taken])
        run(engine, taken)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SessionEngine, "_run", recorded)
        room.run()
    assert any(len(batch) > 1 for batch in batches) and [1] in batches
    assert all(batch == [1] for batch in batches if 1 in batch)
    assert [one.text.split() for one in speakers] == [talk(seed, 20)[1] for seed in range(4)]


def test_a_fast_sender_does_not_disturb_live_ones() -> None:
    live = [Speaker(chatter(40, 0.7, first=seed)[0], begin=0.1 * seed, config=PLAIN) for seed in range(3)]
    long, text = chatter(300, 0.7)
    model = SpokenModel()
    beside, plain = Room(model, [*live, Speaker(long, begin=3.0, speed=FAST, piece=10.0)]), [
        Speaker(one.audio, one.begin) for one in live
    ]  # fmt: skip
    beside.run()
    alone = Room(SpokenModel(), plain)
    alone.run()
    assert not beside.crowded and beside.speakers[-1].text == text
    for one, other in zip(live, plain):
        assert one.text == other.text
        assert max(one.waits()) <= max(other.waits()) + 0.25, "one whole segment, at most"
    assert np.median([wait for one in live for wait in one.waits()]) < 0.15


def test_what_has_waited_takes_in_what_has_come() -> None:
    model = SpokenModel(fixed=0.0, second=0.0)
    audio = np.concatenate([word(k) for k in range(1, 12)])
    with plain_activity():
        engine = SessionEngine(model, EngineConfig(together=1))  # type: ignore[arg-type]
        handle = engine.open(PLAIN)
        for start in range(0, 32000, 1600):
            engine.feed(handle, audio[start : start + 1600], RATE, start / RATE)
            engine.look(min(start / RATE, 0.7))  # due, but nobody decodes
        engine.step(2.0)
        assert model.windows == [[pytest.approx(2.0, abs=0.04)]] and engine.crowded
        engine.feed(handle, audio[32000:48000], RATE, 3.0)
        engine.flush(handle, 3.0)
        engine.look(3.0)
        events = [event for _, event in engine.step(3.6)]
        assert [window for [window] in model.windows] == pytest.approx([2.0, 3.0], abs=0.04)
        [final] = [event for event in events if isinstance(event, Final)]
        assert final.flush == 1 and final.text.split() == [f"w{k}" for k in range(1, 12)]


def test_a_flush_does_not_wait_for_a_growing_pass_that_has_not_begun() -> None:
    for waited, passes in ((0.01, 2), (0.08, 1)):
        model = SpokenModel()
        with plain_activity():
            engine = SessionEngine(model, EngineConfig(together=1))  # type: ignore[arg-type]
            handle = engine.open(PLAIN)
            engine.feed(handle, np.concatenate([word(1), word(2), word(3)])[:11500], RATE, 0.0)
            engine.look(0.0)
            assert engine._find(handle).due is not None
            engine.flush(handle, 0.0)
            due_at = engine._find(handle).due_at
            events = [event for _ in range(2) for _, event in engine.step(due_at + waited)]
        [final] = [event for event in events if isinstance(event, Final)]
        assert final.text == "w1 w2 w3" and len(model.windows) == passes and not engine.crowded


def test_overload_loses_no_word_and_starves_nobody() -> None:
    speakers = [Speaker(chatter(60, 0.7, first=seed)[0], begin=0.3 * seed) for seed in range(14)]
    room = Room(SpokenModel(fixed=0.05, second=0.01), speakers)  # 14 need 2 s a second at the usual step
    room.run()
    for seed, one in enumerate(speakers):
        assert one.text == chatter(60, 0.7, first=seed)[1]
    ends = [one.said[-1][0] - one.comes(len(one.audio)) for one in speakers]
    waits = [wait for one in speakers for wait in one.waits()]
    assert room.crowded and max(ends) < 3.0 and max(waits) < 6.0, "nobody is left behind"
    assert np.median(waits) < 1.5


def test_a_busy_engine_answers_ends_in_time() -> None:
    speakers = [Speaker(chatter(100, 0.7, first=seed)[0], begin=0.37 * seed) for seed in range(5)]
    model = SpokenModel(fixed=0.05, second=0.01)
    room = Room(model, speakers)
    room.run()
    length = max(one.comes(len(one.audio)) for one in speakers)
    waits = sorted(wait for one in speakers for wait in one.waits())
    assert 0.4 < model.spent / length < 0.8, "busy"
    alone = 0.05 + 0.01 * 2.6  # the last pass over five words
    assert waits[int(0.95 * len(waits))] < 2.5 * alone
