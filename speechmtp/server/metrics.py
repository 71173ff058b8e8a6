"""What the server counts and measures, for Prometheus. Without `prometheus_client` nothing is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from speechmtp.server.protocols.contract import EndReason
from speechmtp.server.protocols.table import PROTOCOLS

HOW = "metrics need prometheus_client; pip install 'speechmtp[server]'"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_SHORT = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# Values that a label may have; others are counted as `other`, so that no client can make new ones.
LABELS: dict[str, tuple[str, ...]] = {
    "protocol": tuple(PROTOCOLS),
    "outcome": ("ended", "closed", "lost", "failed", *get_args(EndReason)),
    "reason": (
        "full", "starting", "stopping", "invalid_api_key", "foreign_origin", "foreign_host", "too_many_connections",
        "too_many_failures", "crash", "stuck",
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
    "engine_pass_seconds": Metric("histogram", "seconds of an engine's passes, a mean for each second", (), _SHORT),
    "engine_load_ratio": Metric("gauge", "seconds of work of the busiest engine for each second"),
    "load_level": Metric("gauge", "0: admits, 1: steps have grown, 2: refuses new sessions"),
    "engine_restarts_total": Metric("counter", "engines that were started again, by why", ("reason",)),
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
