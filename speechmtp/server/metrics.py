"""What the server counts and measures, for Prometheus. Without `prometheus_client` nothing is kept."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from speechmtp.server.messages import Committed, CoreEvent, Failed, Final, Heard, SpeechStarted, Tail

HOW = "metrics need prometheus_client; pip install 'speechmtp[server]'"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_REMEMBERED = 4096  # messages of audio
_EXACT = 0.001  # seconds by which times are rounded
_SHORT = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# Values that a label may have; others are counted as `other`, so that no client can make new ones.
LABELS: dict[str, tuple[str, ...]] = {
    "protocol": ("openai", "deepgram", "vosk"),
    "outcome": ("ended", "left", "refused", "failed"),
    "reason": (
        "full", "stopping", "invalid_api_key", "foreign_origin", "foreign_host", "bad_host", "crash", "stuck", "stopped",
    ),
    "trigger": ("endpoint", "pause", "full", "flush", "finish"),
    "code": (
        *map(str, (200, 206, 304, 400, 401, 403, 404, 405, 408, 413, 415, 426, 431, 499, 500, 501, 503, 505, 507)),
        *map(str, (1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013)),
    ),
    "side": ("client", "server"),
    "route": (
        "page", "transcriptions", "listen", "listen_v2", "models", "health", "ready", "metrics", "socket", "none",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """A counter, gauge or histogram: its kind, what it says, its labels, and the bounds of a histogram's buckets."""

    kind: str
    text: str
    labels: tuple[str, ...] = ()
    buckets: Sequence[float] = _SECONDS


METRICS: dict[str, Metric] = {
    "sessions_active": Metric("gauge", "sessions that are open", ("protocol",)),
    "sessions_total": Metric("counter", "sessions that ended, by how", ("protocol", "outcome")),
    "admission_refused_total": Metric("counter", "sessions that were refused, by why", ("reason",)),
    "audio_received_seconds_total": Metric("counter", "seconds of audio that clients sent"),
    "audio_processed_seconds_total": Metric("counter", "seconds of audio that were listened to"),
    "session_lag_seconds": Metric("histogram", "seconds of a session's audio that wait to be listened to"),
    "first_token_seconds": Metric("histogram", "seconds from the first audio of speech to the first word"),
    "finalization_seconds": Metric("histogram", "seconds from a flush or the end of speech to its final", ("trigger",)),
    "flushes_total": Metric("counter", "flushes that clients asked for"),
    "flushes_answered_total": Metric("counter", "flushes that were answered"),
    "engine_load_ratio": Metric("gauge", "seconds of work of the busiest engine for each second"),
    "load_level": Metric("gauge", "0: admits, 1: steps have grown, 2: refuses new sessions"),
    "engine_restarts_total": Metric("counter", "engines that were started again, by why", ("reason",)),
    "decoder_calls_total": Metric("counter", "calls of the decoder for sessions"),
    "mtp_accepted_tokens_total": Metric("counter", "drafted tokens that were accepted: those beyond one for each call"),
    "connections": Metric("gauge", "connections that are open"),
    "websocket_closes_total": Metric("counter", "websockets that were closed, by code and by whom", ("code", "side")),
    "http_requests_total": Metric("counter", "HTTP requests that were answered", ("route", "code")),
    "event_loop_delay_seconds": Metric("histogram", "seconds by which the front's event loop was late", (), _SHORT),
    "uploads_active": Metric("gauge", "uploads that are transcribed or wait for it"),
    "upload_audio_seconds_total": Metric("counter", "seconds of audio of uploads that were transcribed"),
    "transcriber_restarts_total": Metric("counter", "times that the process of uploads was lost"),
}


class Metrics:
    """All metrics of a server by their names without the prefix `speechmtp_`. KeyError for a name that is none."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}
        self._registry: Any = None
        self._passes: tuple[int, float] = 0, 0.0
        try:
            import prometheus_client
        except ImportError:
            return
        self._registry = prometheus_client.CollectorRegistry()
        kinds = {"counter": prometheus_client.Counter, "gauge": prometheus_client.Gauge}
        for name, metric in METRICS.items():
            full, given = f"speechmtp_{name}", {"labelnames": metric.labels, "registry": self._registry}
            if metric.kind == "histogram":
                made: Any = prometheus_client.Histogram(full, metric.text, buckets=metric.buckets, **given)
            else:
                made = kinds[metric.kind](full, metric.text, **given)
            self._found[name] = made
        self._registry.register(self)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter, or to a gauge, where the amount may be negative."""
        one = self._one(name, labels)
        if one is not None:
            one.inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        one = self._one(name, labels)
        if one is not None:
            one.set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        one = self._one(name, labels)
        if one is not None:
            one.observe(value)

    def passes(self, count: int, seconds: float) -> None:
        """What engines have decoded since they started: passes, and the seconds that they took together."""
        self._passes = count, seconds

    def collect(self) -> Iterable[Any]:
        """What engines count themselves, for `prometheus_client`."""
        from prometheus_client.core import SummaryMetricFamily

        count, seconds = self._passes
        yield SummaryMetricFamily("speechmtp_engine_step_seconds", "seconds of a pass of an engine", count, seconds)

    # Called by what happens

    def engine_restarted(self, reason: str) -> None:
        """An engine was lost, or stopped."""
        self.count("engine_restarts_total", reason=reason)

    def refused(self, reason: str) -> None:
        """A session was refused."""
        self.count("admission_refused_total", reason=reason)

    def event_loop_delay(self, seconds: float) -> None:
        """The front's event loop was late by that much."""
        self.observe("event_loop_delay_seconds", seconds)

    def watch(self, protocol: str) -> "SessionWatch":
        """What is told about a new session."""
        return SessionWatch(self, protocol)

    def text(self) -> bytes | None:
        """All of them as Prometheus reads them; None without `prometheus_client`."""
        if self._registry is None:
            return None
        import prometheus_client

        found: bytes = prometheus_client.generate_latest(self._registry)
        return found

    def _one(self, name: str, labels: dict[str, str]) -> Any:
        metric = METRICS[name]
        if self._registry is None:
            return None
        if not metric.labels:
            return self._found[name]
        return self._found[name].labels(
            *(labels[key] if labels[key] in LABELS[key] else "other" for key in metric.labels)
        )


class SessionWatch:
    """Measures one session. When audio came is remembered, so that every delay is against the clock of the client's own
    audio."""

    def __init__(self, metrics: Metrics, protocol: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics, self._protocol, self._clock = metrics, protocol, clock
        self._came = deque[tuple[float, float]](maxlen=_REMEMBERED)  # seconds of audio, and when all of them were there
        self._received = self._heard = 0.0
        self._counts = 0, 0  # tokens and calls
        self._started: float | None = None  # where speech began that has no word yet
        self._failed = False
        metrics.count("sessions_active", protocol=protocol)

    def received(self, seconds: float) -> None:
        """That much audio came."""
        self._received += seconds
        self._came.append((self._received, self._clock()))
        self._metrics.count("audio_received_seconds_total", seconds)

    def flushed(self) -> None:
        """A flush was asked for."""
        self._metrics.count("flushes_total")

    def events(self, events: Sequence[CoreEvent]) -> None:
        """The recogniser said these."""
        for event in events:
            if isinstance(event, SpeechStarted):
                self._started = event.start
            elif isinstance(event, Committed | Tail):
                self._word(event.text)
            elif isinstance(event, Final):
                self._final(event)
            elif isinstance(event, Heard):
                self._listened(event)
            elif isinstance(event, Failed):
                self._failed = True

    def closed(self, code: int, by_server: bool) -> None:
        """The connection is closed."""
        metrics, side = self._metrics, "server" if by_server else "client"
        metrics.count("sessions_active", -1, protocol=self._protocol)
        left = "left" if code in (1001, 1005, 1006) else "refused"
        outcome = "failed" if self._failed else "ended" if code == 1000 else left
        metrics.count("sessions_total", protocol=self._protocol, outcome=outcome)
        metrics.count("websocket_closes_total", code=str(code), side=side)

    def _word(self, text: str) -> None:
        if self._started is not None and text.strip():
            self._since("first_token_seconds", self._started)
            self._started = None

    def _final(self, event: Final) -> None:
        self._since("finalization_seconds", event.end, trigger=event.reason)
        self._started = None
        if event.flush is not None:
            self._metrics.count("flushes_answered_total")

    def _listened(self, event: Heard) -> None:
        self._metrics.count("audio_processed_seconds_total", max(0.0, event.time - self._heard))
        self._heard = max(self._heard, event.time)
        self._metrics.observe("session_lag_seconds", max(0.0, self._received - event.time))
        tokens, calls = event.tokens - self._counts[0], event.calls - self._counts[1]
        if tokens >= 0 and calls >= 0:  # a session that moved to another engine counts anew
            self._metrics.count("decoder_calls_total", calls)
            self._metrics.count("mtp_accepted_tokens_total", max(0, tokens - calls))
        self._counts = event.tokens, event.calls

    def _since(self, name: str, place: float, **labels: str) -> None:
        """Observe the seconds since the audio up to `place` had come."""
        came = next((when for seconds, when in self._came if seconds >= place - _EXACT), None)
        if came is not None:
            self._metrics.observe(name, max(0.0, self._clock() - came), **labels)
