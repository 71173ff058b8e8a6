"""The wire between the front and an engine: frames over a pair of sockets, the same for every kind of engine.

A frame is `<u32 length><u8 kind><u32 session>` and its payload, little-endian; the length is that of the payload. Audio
is raw, everything else JSON. Sessions have numbers that are never used again; what comes for a closed one is dropped.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from typing import Any

from speechmtp.errors import DataError
from speechmtp.server import messages
from speechmtp.server.messages import CoreEvent, Settings
from speechmtp.words.word import Word

HEAD = struct.Struct("<IBI")
MOST = 1 << 26  # bytes of a payload
BEAT = 0.25  # seconds between two signs of life of an engine


class Kind(IntEnum):
    """What a frame is. The first ones go to the engine, those from READY on come from it."""

    OPEN = 1  # Opening
    AUDIO = 2  # int16 samples at the rate of the opening, or of the last CONFIGURE
    FLUSH = 3  # {"number"}
    CLEAR = 4
    CONFIGURE = 5  # {"settings", "rate"}
    END = 6
    CLOSE = 7  # forget the session
    STOP = 8  # of the session 0: leave
    READY = 16  # Readiness, once
    EVENTS = 17  # Said
    BEAT = 18  # Load, every BEAT seconds, from a thread of its own
    RUNNING = 19  # {"sessions"}: they are decoded next; none when that is done
    FATAL = 20  # {"message", "user"}: the engine leaves; `user` says that the message is for the user


@dataclass(frozen=True)
class Opening:
    """How a session starts. `rate` is that of its audio in Hz. The first sample that follows is at `offset` seconds of
    the session's audio. `resume` is what an engine said last of a session that it lost (`Said.resume`). `alone`: its
    passes are not decoded together with others', since it may have broken an engine."""

    settings: Settings
    rate: float
    offset: float = 0.0
    resume: Mapping[str, Any] | None = None
    alone: bool = False


@dataclass(frozen=True)
class Said:
    """What arose in a session. Audio before `keep` seconds is needed no more: another engine can go on with the audio
    from there, and with `resume`."""

    events: tuple[CoreEvent, ...]
    keep: float
    resume: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Readiness:
    """An engine's models with the languages that each knows (none: only one), in the order of the command line, and the
    device that it runs on. `costs` are seconds of encoding and decoding for each second of speech, by the step of the
    passes in seconds (as text); the dearest model's. `final_seconds` is what the last pass of a segment takes."""

    models: Mapping[str, Sequence[str]]
    device: str
    costs: Mapping[str, float]
    final_seconds: float
    threads: int = 1


@dataclass(frozen=True)
class Load:
    """How an engine does: seconds of work for each second of the last ones, how long the pass that has waited longest
    had waited, whether steps have grown, open sessions, passes so far, the seconds that they took, and for how long the
    engine has not come round (`stuck`)."""

    load: float = 0.0
    lateness: float = 0.0
    crowded: bool = False
    sessions: int = 0
    passes: int = 0
    seconds: float = 0.0
    stuck: float = 0.0


@dataclass(frozen=True)
class Frame:
    """A frame that was read."""

    kind: Kind
    session: int
    payload: bytes = field(repr=False, default=b"")

    def json(self) -> dict[str, Any]:
        """The payload."""
        return dict(json.loads(self.payload)) if self.payload else {}


class FrameReader:
    """Frames of a stream of bytes that comes in pieces. DataError for bytes that are none."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def push(self, data: bytes) -> Iterator[Frame]:
        """Take bytes; yield the frames that are complete."""
        self._waiting += data
        at = 0
        while len(self._waiting) - at >= HEAD.size:
            size, kind, session = HEAD.unpack_from(self._waiting, at)
            if size > MOST or kind not in set(Kind):
                raise DataError(f"engine: a frame of kind {kind} and {size} bytes, expected one of speechmtp")
            if len(self._waiting) - at < HEAD.size + size:
                break
            at += HEAD.size
            payload = bytes(self._waiting[at : at + size])
            at += size
            yield Frame(Kind(kind), session, payload)
        del self._waiting[:at]


def frame(kind: Kind, session: int = 0, payload: Mapping[str, Any] | bytes = b"") -> bytes:
    """The bytes of a frame."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload, separators=(",", ":")).encode()
    return HEAD.pack(len(data), kind, session) + data


def write_event(event: CoreEvent) -> dict[str, Any]:
    """An event as JSON: its fields and its type."""
    return {"type": type(event).__name__, **asdict(event)}


def read_event(data: Mapping[str, Any]) -> CoreEvent:
    """An event from JSON."""
    given = dict(data)
    made = getattr(messages, given.pop("type"))
    if "words" in given:
        given["words"] = tuple(Word(**word) for word in given["words"])
    event: CoreEvent = made(**given)
    return event


def write_said(said: Said) -> dict[str, Any]:
    """As JSON."""
    return {"events": [write_event(event) for event in said.events], "keep": said.keep, "resume": said.resume}


def read_said(data: Mapping[str, Any]) -> Said:
    """From JSON."""
    return Said(tuple(read_event(event) for event in data["events"]), data["keep"], data["resume"])


def write_opening(opening: Opening) -> dict[str, Any]:
    """As JSON."""
    return {**{one.name: getattr(opening, one.name) for one in fields(opening)}, "settings": asdict(opening.settings)}


def read_opening(data: Mapping[str, Any]) -> Opening:
    """From JSON."""
    return Opening(**{**data, "settings": Settings(**data["settings"])})
