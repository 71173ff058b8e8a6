"""A real engine process on a tiny model, told by frames: what was promised to the front holds."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import speechmtp
from speechmtp.audio.io import read_audio
from speechmtp.server.link import FrameReader, Kind, Load, Opening, Readiness, Said, frame, read_said, write_opening
from speechmtp.server.live import stream_config
from speechmtp.server.messages import (
    Cleared,
    Committed,
    CoreEvent,
    Ended,
    Failed,
    Final,
    Heard,
    Settings,
    SpeechStarted,
)
from speechmtp.streaming import events as stream_events
from speechmtp.streaming.stream import RecognitionStream

RATE = 16000
PATIENCE = 30.0  # seconds until a test gives up


class EngineClient:
    """The front's end: it starts a process, sends frames and gathers what comes."""

    def __init__(self, models: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self.wire, self._reader = ours, FrameReader()
        self.ready: Readiness | None = None
        self.fatal: dict[str, Any] = {}
        self.beats, self.running = list[Load](), list[list[int]]()
        self.said = list[tuple[int, Said]]()
        command = [sys.executable, "-m", "speechmtp.server.engine", "--fd", str(theirs.fileno()), "--device", "cpu"]
        for model in models:
            command += ["--model", model]
        with theirs:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )

    def send(self, kind: Kind, session: int = 0, payload: Any = b"") -> None:
        self.wire.sendall(frame(kind, session, payload))

    def open(self, session: int, settings: Settings | None = None, rate: float = RATE, **more: Any) -> None:
        self.send(Kind.OPEN, session, write_opening(Opening(settings or Settings(), rate, **more)))

    def audio(self, session: int, samples: np.ndarray, size: int = 4000) -> None:
        for start in range(0, len(samples), size):
            self.send(Kind.AUDIO, session, samples[start : start + size].tobytes())

    def until(self, done: Callable[[], object]) -> None:
        """Read until something is so."""
        give_up = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < give_up, (self.said[-3:], self.process.poll())
            self.wire.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                data = self.wire.recv(1 << 16)
                assert data or done(), f"gone: {self.process.wait(5)}"
                for one in self._reader.push(data):
                    self._take(one.kind, one.session, one)

    def _take(self, kind: Kind, session: int, one: Any) -> None:
        if kind is Kind.EVENTS:
            self.said.append((session, read_said(one.json())))
        elif kind is Kind.BEAT:
            self.beats.append(Load(**one.json()))
        elif kind is Kind.RUNNING:
            self.running.append(one.json()["sessions"])
        elif kind is Kind.READY:
            self.ready = Readiness(**one.json())
        elif kind is Kind.FATAL:
            self.fatal = one.json()

    def events(self, session: int) -> list[CoreEvent]:
        return [event for number, said in self.said if number == session for event in said.events]

    def last(self, session: int) -> Said:
        return [said for number, said in self.said if number == session][-1]

    def over(self, session: int) -> bool:
        return any(isinstance(event, Ended | Failed) for event in self.events(session))

    def finish(self, session: int) -> list[CoreEvent]:
        """End a session; all its events."""
        self.send(Kind.END, session)
        self.until(lambda: self.over(session))
        return self.events(session)

    def end(self) -> None:
        self.wire.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that says a few letters of anything."""
    return tiny.write_brief(tmp_path_factory.mktemp("models") / "brief")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[EngineClient]:
    client = EngineClient([f"small={folder}", f"second={folder}"])
    client.until(lambda: client.ready)
    yield client
    client.wire.close()
    left = client.process.wait(10)
    client.end()
    assert left == 0, "it leaves with its front"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A few seconds of speech, int16."""
    samples, rate = read_audio(speechmtp.example("reading"))
    assert rate == RATE
    return (samples[12000:80000] * 32767).astype("<i2")


def committed(events: Sequence[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Committed | stream_events.Committed))


def finals(events: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [
        (event.text, round(event.start, 5), round(event.end, 5), event.reason)
        for event in events if isinstance(event, Final | stream_events.Final)
    ]  # fmt: skip


def test_it_says_what_it_can_and_what_that_costs(engine: EngineClient) -> None:
    ready = engine.ready
    assert ready is not None and list(ready.models) == ["small", "second"] and ready.device == "cpu"
    assert list(ready.costs) == ["0.5", "1.0", "2.0"] and ready.threads == 1
    costs = list(ready.costs.values())
    assert 0 < costs[2] < costs[1] < costs[0] < 10 and 0 < ready.final_seconds < 10
    engine.until(lambda: engine.beats)
    if hasattr(os, "getpriority"):
        assert os.getpriority(os.PRIO_PROCESS, engine.process.pid) >= 5


def test_sizes_of_frames_do_not_matter(engine: EngineClient, folder: Path, speech: np.ndarray) -> None:
    stream = RecognitionStream(speechmtp.load(folder, "cpu"), stream_config(Settings()))
    alone = [*stream.feed(speech.astype(np.float32) / 32768, RATE), *stream.finish()]
    for number, size in enumerate([16, 800, 16000, 37777], 10):
        engine.open(number)
        engine.audio(number, speech, size)
        events = engine.finish(number)
        assert finals(events) == finals(alone) and committed(events) == committed(alone)
        assert [type(event).__name__ for event in events].count("Ended") == 1 and isinstance(events[-1], Ended)
        heard = [event.time for event in events if isinstance(event, Heard)]
        assert heard == sorted(set(heard))
    assert len(committed(alone)) > 3
    said = list[Any]()
    for number, size in enumerate([24, 1200, 30011], 15):  # at a rate that is resampled
        engine.open(number, rate=24000)
        engine.audio(number, np.repeat(speech, 2)[:90000], size)
        events = engine.finish(number)
        said.append((finals(events), committed(events), events[-1].time))
    assert said[0] == said[1] == said[2] and said[0][2] == pytest.approx(90000 / 24000) and said[0][1]


def test_fifty_flushes_in_a_burst_are_answered_in_order(engine: EngineClient, speech: np.ndarray) -> None:
    engine.open(20)
    for number in range(1, 51):
        engine.audio(20, speech[1000 * number :][:1000])
        engine.send(Kind.FLUSH, 20, {"number": number})
    events = engine.finish(20)
    answers = [event for event in events if isinstance(event, Final)]
    assert [event.flush for event in answers if event.flush is not None] == list(range(1, 51))
    assert [round(event.end, 4) for event in answers if event.flush is not None] == [n / 16 for n in range(1, 51)]


def test_clear_and_configure_keep_their_place(engine: EngineClient, speech: np.ndarray) -> None:
    engine.open(30, Settings(words=True))
    engine.audio(30, speech[:32000])
    engine.send(Kind.FLUSH, 30, {"number": 1})
    engine.audio(30, speech[32000:48000])
    engine.send(Kind.CLEAR, 30)
    engine.audio(30, speech[:24000])
    engine.send(Kind.FLUSH, 30, {"number": 2})
    engine.send(Kind.CONFIGURE, 30, {"settings": asdict(Settings(words=True)), "rate": RATE})  # changes nothing
    engine.audio(30, speech[:16000])
    engine.send(Kind.CONFIGURE, 30, {"settings": asdict(Settings(model="second", silence=0.3)), "rate": 8000})
    engine.audio(30, speech[:16000])
    engine.send(Kind.FLUSH, 30, {"number": 3})
    events = engine.finish(30)
    order = [
        "cleared" if isinstance(event, Cleared) else event.flush or "configured"
        for event in events if isinstance(event, Cleared | Final) and getattr(event, "reason", "flush") == "flush"
    ]  # fmt: skip
    assert order == [1, "cleared", 2, "configured", 3]
    [cleared] = [event for event in events if isinstance(event, Cleared)]
    assert cleared.time == 3.0
    behind = events[events.index(cleared) + 1 :]
    assert all(event.start >= 3.0 for event in behind if isinstance(event, SpeechStarted | Final))
    ends = {event.flush: event.end for event in events if isinstance(event, Final)}
    assert [ends[1], ends[2], ends[3]] == pytest.approx([2.0, 4.5, 7.5], abs=1e-3)
    assert isinstance(events[-1], Ended) and events[-1].time == pytest.approx(7.5, abs=1e-3)
    counts = [(event.tokens, event.calls) for event in events if isinstance(event, Heard)]
    assert counts == sorted(counts) and counts[-1] > (0, 0)


def test_texts_of_a_session_join_with_spaces_over_clear(engine: EngineClient, speech: np.ndarray) -> None:
    engine.open(31)
    for _ in range(2):
        engine.audio(31, speech[:40000])
        engine.send(Kind.FLUSH, 31, {"number": 1})
        engine.send(Kind.CLEAR, 31)
    events = engine.finish(31)
    at = next(place for place, event in enumerate(events) if isinstance(event, Cleared))
    first, second = committed(events[:at]), committed(events[at:])
    assert first and second == f" {first}"


def test_what_is_wrong_with_one_session_is_not_noticed_by_others(engine: EngineClient, speech: np.ndarray) -> None:
    engine.open(40)
    engine.audio(40, speech[:16000])
    engine.open(41, Settings(model="third"))
    engine.open(42, Settings(language="de"))
    engine.audio(42, speech)
    engine.open(43)
    engine.send(Kind.FLUSH, 43, {"no": "number"})
    for number, problem in ((41, "model third: not here"), (42, "no language to choose"), (43, "number")):
        engine.until(lambda number=number: engine.over(number))  # type: ignore[misc]
        [failed] = [event for event in engine.events(number) if isinstance(event, Failed)]
        assert failed.code == "failed" and problem in failed.message and "\n" not in failed.message
        engine.audio(number, speech[:4000])  # is dropped
    assert isinstance(engine.finish(40)[-1], Ended)


def test_closed_sessions_say_nothing_and_leave_memory(engine: EngineClient, speech: np.ndarray) -> None:
    def resident() -> int:
        return int(Path(f"/proc/{engine.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def lives(first: int, count: int) -> int:
        for number in range(first, first + count):
            engine.open(number)
            engine.audio(number, speech[:12000], 6000)
            engine.send(Kind.CLOSE, number)
            engine.audio(number, speech[:6000])
            engine.send(Kind.END, number)
        engine.open(first + count)
        engine.finish(first + count)
        assert not any(engine.over(number) for number in range(first, first + count))
        return resident() if Path("/proc").is_dir() else 0

    before = lives(1000, 200)
    # What waits to be collected goes up and down by some megabytes; a leak would stay.
    assert min(lives(first, 200) for first in (2000, 3000, 4000, 5000)) - before < 2_000_000
    engine.beats.clear()
    engine.until(lambda: engine.beats and engine.beats[-1].sessions == 0)


def test_what_runs_is_told(engine: EngineClient, speech: np.ndarray) -> None:
    engine.running.clear()
    engine.open(50)
    engine.audio(50, speech[:32000])
    engine.finish(50)
    engine.until(lambda: engine.running and not engine.running[-1])
    assert [50] in engine.running and engine.running[1::2] == [[]] * (len(engine.running) // 2)


def test_an_interrupt_is_the_front_s_matter(engine: EngineClient) -> None:
    engine.process.send_signal(signal.SIGINT)
    engine.beats.clear()
    engine.until(lambda: len(engine.beats) > 1)
    assert engine.process.poll() is None


def test_a_killed_engine_s_session_goes_on_in_another(engine: EngineClient, folder: Path, speech: np.ndarray) -> None:
    whole = np.concatenate([speech[:30000], speech, speech[:20000]])
    settings = Settings(silence=0.3)
    other = EngineClient([f"small={folder}"])
    try:
        other.until(lambda: other.ready)
        other.open(1, settings)
        for start in range(0, len(whole) - 16000, 1600):  # a part of it, and slowly
            other.audio(1, whole[start : start + 1600])
            other.until(lambda start=start: other.said and other.events(1)[-1].time >= start / RATE)  # type: ignore
        other.process.kill()
        other.process.wait()
        said, before = other.last(1), other.events(1)
    finally:
        other.end()
    assert 0 < said.keep < len(whole) / RATE - 1 and said.resume is not None
    engine.open(61, settings, offset=said.keep, resume=said.resume, alone=True)
    engine.audio(61, whole[round(said.keep * RATE) :])
    events = [*before, *engine.finish(61)]
    assert isinstance(events[-1], Ended) and events[-1].time == pytest.approx(len(whole) / RATE)
    ends = [event for event in events if isinstance(event, Final)]
    assert " ".join(event.text for event in ends if event.text) == committed(events)
    assert all(one.end <= other.end for one, other in pairwise(ends))
    assert committed(before) and committed(events[len(before) :]).startswith(" ")


def test_it_leaves_when_it_is_told_or_says_in_a_line_why_it_cannot_begin(folder: Path, tmp_path: Path) -> None:
    clients = [EngineClient([f"small={path}"]) for path in (folder, tmp_path / "nothing")]
    stopped, failed = clients  # they start side by side
    try:
        stopped.until(lambda: stopped.beats)  # while it loads
        stopped.send(Kind.STOP)
        assert stopped.process.wait(10) == 0
        failed.until(lambda: failed.fatal)
        assert failed.fatal["user"] and "no such model folder" in failed.fatal["message"]
        assert failed.process.wait(10) == 2
        assert failed.process.stderr is not None and b"Traceback" not in failed.process.stderr.read()
    finally:
        for client in clients:
            client.end()
