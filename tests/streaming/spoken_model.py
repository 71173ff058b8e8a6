"""A model of the language in which audio says what it is (`spoken.py`), and a clock that its passes move."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from spoken import END, PLAIN, RATE, Activity, heard, text_of

from speechmtp.streaming import session
from speechmtp.streaming.config import EngineConfig, StreamConfig
from speechmtp.streaming.engine import Handle, SessionEngine
from speechmtp.streaming.events import Committed, Ended, Failed, Final, StreamEvent
from speechmtp.types import Result, TokenRules, Trace


@dataclass
class Asked:
    """A request: the samples and the tokens before."""

    samples: np.ndarray
    prefix: tuple[int, ...]
    listen_seconds: float = 0.0

    def knowing(self, source: object) -> "Asked":
        return self


class SpokenModel:
    """Answers in `text_of`; a pass takes `fixed` seconds, and `second` more for each second of its window. `windows`
    are the lengths in seconds of those that were decoded, a list a batch."""

    rate, longest, heads, has_ctc = RATE, 30.0, None, False

    def __init__(self, fixed: float = 0.02, second: float = 0.01) -> None:
        speech = SimpleNamespace(decode=text_of, rules=TokenRules((END,)), shortest=500)
        self.bundle = SimpleNamespace(model=speech)
        self.fixed, self.second = fixed, second
        self.windows = list[list[float]]()
        self.spent = 0.0

    def listen(
        self, samples: np.ndarray, name: str, language: str = "", task: str = "", prefix: Sequence[int] = ()
    ) -> Asked:  # fmt: skip
        return Asked(samples, tuple(prefix))

    def decode(self, requests: Sequence[Asked], strategies: Any, recorded: Any = None) -> list[Result]:
        self.windows.append([len(one.samples) / RATE for one in requests])
        seconds = sum(self.fixed + self.second * length for length in self.windows[-1])
        self.spent += seconds
        found = []
        for one in requests:
            tokens = [*heard(one.samples)[len(one.prefix) :], END]
            trace = Trace(calls=1, emitted=len(tokens), finished=True, logprobs=[-0.1] * len(tokens))
            found.append(Result(text_of(tokens), tuple(tokens), trace, seconds))
        return found


@contextmanager
def plain_activity() -> Iterator[None]:
    """Speech is what is no silence."""
    with mock.patch.object(session, "load_activity", return_value=SimpleNamespace(stream=Activity)):
        yield


@dataclass
class Speaker:
    """One who sends `audio` from `begin` on, `speed` times as fast as real time in pieces of `piece` seconds, and then
    ends. `said` are events with when they were said."""

    audio: np.ndarray
    begin: float = 0.0
    speed: float = 1.0
    piece: float = 0.1
    alone: bool = False
    config: StreamConfig = PLAIN
    said: list[tuple[float, StreamEvent]] = field(default_factory=list)
    handle: Handle | None = None
    sent: int = 0
    done: bool = False

    @property
    def text(self) -> str:
        return "".join(event.text for _, event in self.said if isinstance(event, Committed))

    def comes(self, sample: int) -> float:
        """When so many samples are there."""
        return self.begin + sample / RATE / self.speed

    def waits(self, reason: str = "endpoint") -> list[float]:
        """How long after the audio the Finals were said, seconds."""
        return [
            now - self.comes(round(event.time * RATE))
            for now, event in self.said if isinstance(event, Final) and event.reason == reason
        ]  # fmt: skip


@dataclass
class Room:
    """An engine on a clock that only its passes move; where nothing is due, time goes on to the next audio."""

    model: SpokenModel
    speakers: Sequence[Speaker]
    config: EngineConfig = field(default_factory=lambda: EngineConfig(slots=64, together=1))
    now: float = 0.0
    crowded: bool = False  # whether the engine ever was
    lateness: float = 0.0

    def run(self, each: Callable[[SessionEngine, float], object] = lambda engine, now: None) -> None:
        """Until all speakers have ended."""
        with plain_activity():
            engine: Any = SessionEngine(self.model, self.config)  # type: ignore[arg-type]
            by_handle = dict[Handle, Speaker]()
            while not all(one.said and isinstance(one.said[-1][1], Ended | Failed) for one in self.speakers):
                self._feed(engine, by_handle)
                before = self.model.spent
                events = engine.step(self.now)
                self.crowded, self.lateness = self.crowded or engine.crowded, max(self.lateness, engine.lateness)
                each(engine, self.now)
                self.now += self.model.spent - before
                for handle, event in events:
                    by_handle[handle].said.append((self.now, event))
                if not engine.waiting:
                    self.now = max(self.now, self._next())

    def _feed(self, engine: SessionEngine, by_handle: dict[Handle, Speaker]) -> None:
        for one in self.speakers:
            if one.handle is None and one.begin <= self.now:
                one.handle = engine.open(one.config, alone=one.alone)
                by_handle[one.handle] = one
            size = round(one.piece * RATE)
            while one.handle is not None and not one.done:
                end = min(one.sent + size, len(one.audio))
                if one.comes(end) > self.now + 1e-9:
                    break
                engine.feed(one.handle, one.audio[one.sent : end], RATE, max(one.begin, one.comes(end)))
                one.sent = end
                if end == len(one.audio):
                    engine.finish(one.handle, one.comes(end))
                    one.done = True

    def _next(self) -> float:
        """When audio comes next."""
        times = [
            one.comes(min(one.sent + round(one.piece * RATE), len(one.audio))) if one.handle is not None else one.begin
            for one in self.speakers if not one.done
        ]  # fmt: skip
        return min(times, default=self.now)
