"""The engine of sessions: each says what it says alone; the most urgent passes come first; a crowd slows all down."""

import gc
import random
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.audio.io import read_audio
from speechmtp.errors import ConfigError, DataError
from speechmtp.streaming import passes
from speechmtp.streaming.config import EngineConfig, StreamConfig
from speechmtp.streaming.engine import Handle, SessionEngine
from speechmtp.streaming.events import Committed, Ended, Failed, Final, StreamEvent
from speechmtp.streaming.session import Pass, Session
from speechmtp.streaming.stream import RecognitionStream

RATE = 16000
CONFIG = StreamConfig(words=False)


def speech(name: str = "reading") -> np.ndarray:
    return read_audio(speechmtp.example(name))[0].astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that says a few letters of anything."""
    return tiny.write_brief(tmp_path_factory.mktemp("models") / "brief")


@pytest.fixture(scope="module")
def model(folder: Path) -> Recogniser:
    return speechmtp.load(folder, dtype="float64")


@dataclass
class Life:
    """One session: what it was given, what it said, and whether it came to its end."""

    handle: Handle
    audio: np.ndarray
    given: list[np.ndarray | str] = field(default_factory=list)
    said: list[StreamEvent] = field(default_factory=list)
    done: bool = False

    def alone(self, model: Recogniser) -> list[StreamEvent]:
        """What a stream of its own says of the same."""
        stream = RecognitionStream(model, CONFIG)
        events: list[StreamEvent] = []
        for one in self.given:
            events += getattr(stream, one)() if isinstance(one, str) else stream.feed(one, RATE)
        return events


def told(events: Sequence[StreamEvent]) -> list[Any]:
    """Events without what rounding changes."""
    found: list[Any] = []
    for event in events:
        values = dict(vars(event))
        values["words"] = [(word.text, word.start, word.end) for word in values.get("words", ())]
        found.append((type(event).__name__, values))
    return found


def random_lives(engine: SessionEngine, steps: int, draw: random.Random) -> list[Life]:
    """Let sessions come and go, with audio in pieces of any size."""
    sounds = [speech()[12000:], speech("digits"), speech()[12000:]]
    lives: list[Life] = []
    live: dict[Handle, Life] = {}

    def start(handle: Handle) -> None:
        audio = np.concatenate([draw.choice(sounds)[draw.randrange(4000) :][: draw.randrange(9000, 40000)]] * 2)
        live[handle] = Life(handle, audio)
        lives.append(live[handle])

    def act(life: Life) -> None:
        what = draw.choices(["feed", "flush", "finish", "close", "reset"], [40, 2, 1, 1, 1])[0]
        what = what if len(life.audio) or what != "feed" else "finish"
        if what == "feed":
            size = draw.choice([1, 320, 5000, 9000, 40000])
            life.given.append(life.audio[:size])
            engine.feed(life.handle, life.audio[:size], RATE, 0.0)
            life.audio = life.audio[size:]
        elif what in ("flush", "finish"):
            life.given.append(what)
            getattr(engine, what)(life.handle, 0.0)
            life.done = what == "finish"
        else:
            del live[life.handle]
            new = getattr(engine, what)(life.handle)
            if new is not None:
                start(new)

    def step() -> None:
        for handle, event in engine.step(0.0):
            live[handle].said.append(event)
            if isinstance(event, Ended):
                engine.close(handle)
                del live[handle]

    for _ in range(steps):
        if engine.sessions < engine.config.slots and draw.random() < 0.5:
            start(engine.open(CONFIG))
        for life in draw.sample(list(live.values()), k=min(len(live), 12)):
            if not life.done:
                act(life)
        if draw.random() < 0.4:
            step()
    for life in live.values():
        if not life.done:
            life.given.append("finish")
            engine.finish(life.handle, 0.0)
            life.done = True
    while live:
        step()
    return lives


@pytest.mark.parametrize(("dtype", "steps"), [("float64", 44), ("float32", 40)])
def test_sessions_say_what_they_say_alone(
    folder: Path, dtype: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sizes = speechmtp.load(folder, dtype=dtype), Counter[int]()
    decode = model.decode

    def counted(requests: Any, *given: Any, **named: Any) -> Any:
        sizes[len(requests)] += 1
        return decode(requests, *given, **named)

    monkeypatch.setattr(model, "decode", counted)
    engine = SessionEngine(model, EngineConfig(slots=16))
    lives = random_lives(engine, steps, random.Random(5))
    monkeypatch.undo()
    ended = [life for life in lives if life.done]
    assert len(ended) >= 10 and len(lives) > len(ended)
    assert sizes[4] >= 4 and max(sizes) == 4, "four together, no more"
    assert sum(size * count for size, count in sizes.items()) == engine.passes and engine.seconds > 0
    for life in lives:
        alone, said = told(life.alone(model)), told(life.said)
        assert said == (alone if life.done else alone[: len(said)])
    assert sum(isinstance(event, Final) and bool(event.text) for life in lives for event in life.said) > 10
    assert engine.sessions == engine.waiting == 0


def due(engine: SessionEngine, handle: Handle) -> bool:
    """Whether a pass of the session waits."""
    one = engine._slots[handle.slot]
    return one is not None and one.due is not None


def test_the_earliest_deadline_comes_first(model: Recogniser) -> None:
    engine, audio = SessionEngine(model, EngineConfig(slots=6, together=2)), speech()
    steps = [1.0, 0.5, 0.8, 0.5, 2.0, 0.5]
    handles = [engine.open(StreamConfig(step=step, words=False)) for step in steps]
    for handle, step in zip(handles, steps):  # audio for the first pass of each
        engine.feed(handle, audio[:56000], RATE, now=10.0 if step == 2.0 else 10.2)
    order: list[int] = []
    assert engine.waiting == 0
    engine.config = EngineConfig(slots=6, together=6)
    taken = engine._run
    engine._run = lambda chosen: (order.extend(one.handle.slot for one in chosen), taken(chosen))[1]  # type: ignore
    engine.step(10.3)
    assert order == [1, 3, 5, 2, 0, 4], "deadlines 10.7, 10.7, 10.7, 11.0, 11.2, 12.0"


def test_others_wait_for_the_next_step(model: Recogniser) -> None:
    engine = SessionEngine(model, EngineConfig(slots=5, together=2))
    handles = [engine.open(CONFIG) for _ in range(5)]
    for handle in handles:
        engine.feed(handle, speech()[:16000], RATE, 0.0)
        engine.finish(handle, 0.0)
    ended, steps = list[Handle](), 0
    while not steps or engine.waiting:
        ended += [handle for handle, event in engine.step(0.0) if isinstance(event, Ended)]
        steps += 1
    assert sorted(ended, key=lambda one: one.slot) == handles
    assert engine.passes > 2 * (steps - 2)


def test_a_crowd_makes_steps_longer_and_no_word_is_lost() -> None:
    model, audio = speechmtp.load("default"), speech()
    engine = SessionEngine(model, EngineConfig(slots=2))
    handles = [engine.open(CONFIG), engine.open(CONFIG)]
    sessions = [engine._find(handle).session for handle in handles]
    said: dict[Handle, list[StreamEvent]] = {handle: [] for handle in handles}
    now, steps = 0.0, list[float]()
    for start in range(0, len(audio), 1600):
        for handle in handles:
            engine.feed(handle, audio[start : start + 1600], RATE, start / RATE)
        now = start / RATE + (0.6 if 1.0 < start / RATE < 3.0 else 0.0)  # the steps of that time come late
        for handle, event in engine.step(now):
            said[handle].append(event)
        steps.append(sessions[0].step)
        assert engine.crowded == (sessions[1].step == 1.0)
    assert steps[0] == 0.5 and max(steps) == 1.0
    assert engine.lateness < 0.25
    while engine.crowded:  # silence follows
        now += 0.1
        for handle in handles:
            engine.feed(handle, np.zeros(1600, np.float32), RATE, now)
        for handle, event in engine.step(now):
            said[handle].append(event)
    assert 7.0 < now < 9.0 and sessions[0].step == 0.5, "5 s after the last late pass"
    for handle in handles:
        engine.finish(handle, now)
    while any(not isinstance(events[-1], Ended) for events in said.values()):
        for handle, event in engine.step(now):
            said[handle].append(event)
    for handle, events in said.items():
        text = "".join(event.text for event in events if isinstance(event, Committed))
        assert text == engine.result(handle).text == str(model.transcribe(audio, RATE))
    assert 0 < engine.load < 5 and engine.passes < 2 * 2 * len(audio) / RATE


def test_old_handles_are_refused_and_touch_nothing(model: Recogniser) -> None:
    engine = SessionEngine(model, EngineConfig(slots=2))
    first = engine.open(CONFIG)
    engine.feed(first, speech()[:16000], RATE, 0.0)
    second = engine.reset(first)
    assert second.slot == first.slot and second != first
    assert engine._find(second).session.received == 0, "anew"
    for use in (
        lambda: engine.feed(first, speech(), RATE, 0.0), lambda: engine.flush(first, 0.0),
        lambda: engine.finish(first, 0.0), lambda: engine.reset(first), lambda: engine.close(first),
        lambda: engine.result(first),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"^engine: Handle\(slot=0, generation=1\) is not open") as error:
            use()
        assert "\n" not in str(error.value)
    assert engine._find(second).session.received == 0 and engine.sessions == 1
    engine.close(second)
    third = engine.open(CONFIG)
    assert third.slot == first.slot and third.generation == 3
    for handle in (Handle(-1, 1), Handle(2, 1), Handle(1, 0)):
        with pytest.raises(ConfigError, match="is not open"):
            engine.close(handle)
    engine.open(CONFIG)
    with pytest.raises(ConfigError, match="all 2 slots are taken"):
        engine.open(CONFIG)


def test_bad_audio_is_refused_and_the_session_goes_on(model: Recogniser) -> None:
    engine = SessionEngine(model)
    handle = engine.open(CONFIG)
    with pytest.raises(DataError, match="not finite"):
        engine.feed(handle, np.array([np.nan], np.float32), RATE, 0.0)
    engine.feed(handle, speech()[:16000], RATE, 0.0)
    engine.finish(handle, 0.0)
    with pytest.raises(ConfigError, match="after finish"):
        engine.feed(handle, speech(), RATE, 0.0)
    events = [*engine.step(0.0), *engine.step(0.0), *engine.step(0.0)]
    assert events[-1][1] == Ended(1.0)


@pytest.mark.parametrize("where", ["listen", "decode", "take"])
def test_a_session_that_fails_ends_alone(model: Recogniser, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, audio = SessionEngine(model), speech()[:32000]
    handles = [engine.open(CONFIG) for _ in range(3)]
    bad = handles[1]
    session, decode, ask = engine._find(bad).session, model.decode, passes.request_of
    own = list[Any]()

    def asked(model: Recogniser, of: Session, due: Pass) -> Any:
        if of is session and where == "listen":
            raise RuntimeError("broken")
        request = ask(model, of, due)
        own.extend([request] if of is session else [])
        return request

    def decoded(requests: Sequence[Any], *given: Any, **named: Any) -> Any:
        if where == "decode" and any(one is mine for one in requests for mine in own):
            raise RuntimeError("broken")
        return decode(requests, *given, **named)

    def take(*given: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(passes, "request_of", asked)
    monkeypatch.setattr(model, "decode", decoded)
    if where == "take":
        monkeypatch.setattr(session, "take", take)
    for handle in handles:
        engine.feed(handle, audio, RATE, 0.0)
        engine.finish(handle, 0.0)
    events = list[tuple[Handle, StreamEvent]]()
    while not events or engine.waiting:
        events += engine.step(0.0)
    [(handle, failed)] = [(handle, event) for handle, event in events if isinstance(event, Failed)]
    assert handle == bad and str(failed.error) == "broken"
    assert [one for one, event in events if one == bad][-1:] == [bad] and events.count((bad, failed)) == 1
    assert {one for one, event in events if isinstance(event, Ended)} == {handles[0], handles[2]}
    with pytest.raises(ConfigError, match="has failed"):
        engine.result(bad)
    assert engine.sessions == 2


def test_what_is_closed_leaves_memory(model: Recogniser) -> None:
    engine, audio = SessionEngine(model, EngineConfig(slots=4)), speech()[:24000]

    def live() -> Any:
        handle = engine.open(CONFIG)
        kept = weakref.ref(engine._find(handle).session)
        for start in range(0, len(audio), 8000):
            engine.feed(handle, audio[start : start + 8000], RATE, 0.0)
            engine.step(0.0)
        handle = engine.reset(handle)
        engine.feed(handle, audio, RATE, 0.0)
        engine.step(0.0)
        engine.close(handle)
        return kept

    for _ in range(3):
        live()
    gc.collect()
    tracemalloc.start()
    live()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    kept = [live() for _ in range(8)]
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert not [one for one in kept if one() is not None]
    assert grown < 60_000, "not even the samples of one session"
