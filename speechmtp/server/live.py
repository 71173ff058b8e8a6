"""A live session in an engine process: what was asked of it, and what its recogniser says, on the session's clock."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from speechmtp.audio.activity import FRAME, RATE
from speechmtp.audio.endpoint import ActivityConfig
from speechmtp.server.link import Frame
from speechmtp.server.messages import CoreEvent, Heard, Settings
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.engine import Handle, SessionEngine
from speechmtp.streaming.events import Committed, Failed, Final, StreamEvent

HEARD = 0.05  # seconds between two Heard of a session, unless something else is said
SILENCE = (0.1, 60.0)  # seconds that settings may say
PADDING = (0.0, 10.0)
THRESHOLD = (0.02, 0.98)


def stream_config(settings: Settings) -> StreamConfig:
    """How a session with these settings is recognised; numbers that are out of range are brought into it."""
    own = ActivityConfig()
    threshold = own.threshold if settings.threshold is None else _clamped(settings.threshold, THRESHOLD)
    silence = own.min_silence_ms if settings.silence is None else round(1000 * _clamped(settings.silence, SILENCE))
    padding = own.speech_pad_ms if settings.padding is None else round(1000 * _clamped(settings.padding, PADDING))
    activity = ActivityConfig(
        threshold=threshold, hysteresis=min(own.hysteresis, threshold), min_silence_ms=silence, speech_pad_ms=padding
    )
    return StreamConfig(words=settings.words, keep=False, activity=activity)


def _clamped(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])


@dataclass
class Live:
    """A session. Its recogniser's audio begins at `offset` seconds of it, and what came ends at `end`. `flushes`
    are the numbers of those that are not answered (None: of a new configuration), and frames in `held` wait for them.
    `then` are settings and rate that hold when they are answered. `tokens` and `calls` are those of recognisers before
    this one."""

    number: int
    settings: Settings
    rate: float
    offset: float
    end: float
    alone: bool
    engine: SessionEngine
    handle: Handle
    tokens: int = 0
    calls: int = 0
    flushes: deque[int | None] = field(default_factory=deque)
    held: deque[tuple[float, Frame]] = field(default_factory=deque)
    then: tuple[Settings, float] | None = None
    said: list[CoreEvent] = field(default_factory=list)
    heard: float = 0.0  # the time of the last Heard
    heard_at: float = 0.0
    changed: bool = True  # whether anything came since

    def take(self, event: StreamEvent) -> None:
        """Take what the recogniser says, but for that it has failed."""
        assert not isinstance(event, Failed)
        times = {name: getattr(event, name) for name in ("start", "end", "time") if hasattr(event, name)}
        values: dict[str, Any] = {name: value + self.offset for name, value in times.items()}
        if isinstance(event, Committed | Final):
            values["words"] = tuple(word.moved(self.offset) for word in event.words)
        if isinstance(event, Final) and event.flush is not None:
            values["flush"] = self.flushes.popleft()
            if values["flush"] is None and event.start == event.end and not event.words:
                return  # a new configuration where nothing was going on
        self.said.append(replace(event, **values))

    def counts(self) -> tuple[int, int]:
        """Tokens and calls since the session began."""
        trace = self.engine.session(self.handle).trace
        return self.tokens + trace.emitted, self.calls + trace.calls

    def resume(self) -> tuple[float, dict[str, Any]]:
        """From where, and with what, another engine can go on."""
        found, (tokens, calls) = self.engine.session(self.handle).checkpoint(), self.counts()
        return self.offset + found.at, {"checkpoint": found.to_json(), "tokens": tokens, "calls": calls}

    def hear(self, now: float) -> bool:
        """Say how much was listened to, if that has moved; False if it has to wait."""
        if not self.changed:
            return True
        if not self.said and now - self.heard_at < HEARD:
            return False
        idle, session = self.engine.idle(self.handle), self.engine.session(self.handle)
        time = self.end if idle else self.offset + session.position - FRAME / RATE
        self.changed = not idle
        if time > self.heard:
            self.heard, self.heard_at = time, now
            self.said.append(Heard(time, *self.counts()))
        return True
