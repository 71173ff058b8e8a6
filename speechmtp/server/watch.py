"""What the server measures of its sessions and engines."""

import asyncio
from collections.abc import Sequence

from speechmtp.server.link import Load
from speechmtp.server.messages import (
    Command,
    Committed,
    CoreEvent,
    End,
    Failed,
    Final,
    Flush,
    Heard,
    SpeechStarted,
    SpeechStopped,
)
from speechmtp.server.metrics import Metrics
from speechmtp.server.pool import Pool


class SessionWatch:
    """Measures one session. Times of speech are taken from when audio came: the sample at t seconds of a session is
    taken to have come as long after the first one, or later."""

    def __init__(self, metrics: Metrics, protocol: str) -> None:
        self._metrics, self._protocol = metrics, protocol
        self._loop = asyncio.get_running_loop()
        self._received = self._heard = 0.0
        self._began: float | None = None  # when the first audio came, less its length
        self._speech: float | None = None  # when speech began that nothing was said of
        self._stopped: float | None = None  # when speech ended that has no final
        self._flushes: dict[int, float] = {}
        self._outcome = ""
        metrics.count("sessions_active", 1, protocol=protocol)

    def command(self, command: Command, seconds: float = 0.0) -> None:
        """The client's protocol gives a command; `seconds` is how much audio it has."""
        now = self._loop.time()
        if seconds:
            self._began = now - seconds if self._began is None else self._began
            self._received += seconds
            self._metrics.count("audio_received_seconds_total", seconds)
        elif isinstance(command, Flush):
            self._flushes[command.number] = now
            self._metrics.count("flushes_total")
        elif isinstance(command, End):
            self._flushes[0] = now

    def events(self, events: Sequence[CoreEvent]) -> None:
        """The recogniser said these."""
        now, began = self._loop.time(), self._began or 0.0
        for event in events:
            if isinstance(event, Heard):
                self._metrics.count("audio_processed_seconds_total", max(0.0, event.time - self._heard))
                self._heard = max(self._heard, event.time)
                self._metrics.observe("session_lag_seconds", max(0.0, self._received - self._heard))
            elif isinstance(event, SpeechStarted):
                self._speech = began + event.start
            elif isinstance(event, SpeechStopped):
                self._stopped = began + event.end
            elif isinstance(event, Committed) and self._speech is not None:
                self._metrics.observe("first_token_seconds", max(0.0, now - self._speech))
                self._speech = None
            elif isinstance(event, Final):
                self._final(event, now)
            elif isinstance(event, Failed):
                self._outcome = "failed"

    def _final(self, event: Final, now: float) -> None:
        since = self._stopped if event.reason == "endpoint" else None
        if event.flush is not None:
            self._metrics.count("flushes_answered_total")
            since = self._flushes.pop(event.flush, None)
        elif event.reason == "finish":
            since = self._flushes.pop(0, None)
        if since is not None:
            self._metrics.observe("finalization_seconds", max(0.0, now - since), trigger=event.reason)
        self._stopped = None

    def ended(self, reason: str) -> None:
        """The server ends the session for this reason."""
        self._outcome = self._outcome or reason

    def closed(self, code: int, by_server: bool) -> None:
        """The connection is closed."""
        gone = code in (1005, 1006)
        outcome = self._outcome or ("ended" if by_server else "lost" if gone else "closed")
        self._metrics.count("sessions_active", -1, protocol=self._protocol)
        self._metrics.count("sessions_total", protocol=self._protocol, outcome=outcome)
        side = "server" if by_server else "client"
        self._metrics.count("websocket_closes_total", code=str(code), side=side)


class EngineWatch:
    """Measures the engines."""

    def __init__(self, metrics: Metrics, pool: Pool) -> None:
        self._metrics, self._pool = metrics, pool
        self._before = [Load() for _ in pool.engines]

    def look(self, full: bool) -> None:
        """Look at what they said last. `full` says that no session would be let in."""
        loads = [engine.load for engine in self._pool.engines]
        for load, before in zip(loads, self._before):
            passes = load.passes - before.passes
            if passes > 0:
                self._metrics.observe("engine_pass_seconds", (load.seconds - before.seconds) / passes)
        self._before = loads
        self._metrics.set("engine_load_ratio", max((load.load for load in loads), default=0.0))
        crowded = any(load.crowded for load in loads)
        self._metrics.set("load_level", 2 if full else int(crowded))
