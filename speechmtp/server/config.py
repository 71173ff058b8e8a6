"""Settings of the server. Times are in seconds, sizes in bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from speechmtp.config import Range, check_fields

Seconds = Annotated[float, Range(0, 86400, above=True)]
Bytes = Annotated[int, Range(1, 1 << 40)]
Number = Annotated[int, Range(1, 1 << 20)]


@dataclass(frozen=True)
class Limits:
    """What a client may do. Beyond it is refused, paced, or ended with a reason; see docs/serving.md."""

    head: Bytes = 16 << 10  # of a request
    head_seconds: Seconds = 5.0  # until it is complete; also of a TLS handshake
    message: Bytes = 2 << 20
    message_seconds: Seconds = 10.0  # until all its fragments are there
    json: Bytes = 64 << 10  # an HTTP body of JSON
    upload: Bytes = 1 << 30  # two hours of 16 bits at 48 kHz are 660 MiB
    upload_rate: Bytes = 1 << 10  # a second, at least
    upload_seconds: Seconds = 7200.0  # of decoded audio
    uploads: Number = 16  # at once
    connections: Number = 512
    connections_address: Number = 32
    connections_token: Number = 64
    failures: Number = 30  # refused tokens of an address in a minute
    messages: Number = 500  # a second, then they wait
    controls: Number = 50  # a second that carry no audio
    control_burst: Number = 200
    first_audio: Seconds = 60.0
    session: Seconds = 3600.0  # that one may last
    silent: Seconds = 60.0  # without a byte of the client, which is asked for one every 20 s
    waiting: Seconds = 300.0  # of a session's audio that is not listened to yet; then reading pauses
    waiting_all: Seconds = 1800.0  # of all sessions together; then those above `credit` pause
    credit: Seconds = 60.0  # of audio that an engine holds of a session
    pause: Seconds = 10.0  # of reading, at once
    unread: Bytes = 256 << 10  # of messages that the client does not read
    unread_messages: Number = 256
    unread_seconds: Seconds = 5.0  # that a message takes to be sent

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        check_fields(self, "limits")


@dataclass(frozen=True)
class ServerConfig:
    """What is served, where, and for whom.

    `models` are pairs of name and model. `engine` is the command of an engine process, to which `--fd N` and the models
    are added. `share` is the part of an engine's time that admitted sessions may take in the mean, in passes of
    `crowded_step` seconds.
    """

    models: Sequence[tuple[str, str]] = (("default", "default"),)
    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 8765
    workers: Annotated[int, Range(1, 256)] = 1
    device: str = "auto"
    tokens: Sequence[str] = ()
    origins: Sequence[str] = ()
    tls_cert: str = ""
    tls_key: str = ""
    drain: Seconds = 30.0
    strict_models: bool = False
    share: Annotated[float, Range(0, 1, above=True)] = 0.8
    crowded_step: Seconds = 1.0
    sessions: Annotated[int, Range(0, 1 << 16)] = 0  # at most; 0: as many as the engines can carry
    engine: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        check_fields(self, "server")
