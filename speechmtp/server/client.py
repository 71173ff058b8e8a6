"""The client's side of OpenAI Realtime transcription, with the events that speechmtp adds. No socket, no clock."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from speechmtp.errors import ConfigError, ProtocolError
from speechmtp.words.word import Word

PATH, QUERY = "/v1/realtime", "intent=transcription"
EXTENSIONS = ("speechmtp.tail", "speechmtp.heard", "speechmtp.final")
TIMES = "speechmtp.words"
_ITEM = "conversation.item.input_audio_transcription."
_EMPTY = "input_audio_buffer_commit_empty"


@dataclass(frozen=True)
class Committed:
    """Words that stay, of one item; `text` has the space before them. `time` is in seconds since the client began."""

    text: str
    item: str
    time: float


@dataclass(frozen=True)
class Tail:
    """What is behind the committed words and may still change; it replaces the one before."""

    text: str
    time: float


@dataclass(frozen=True)
class Final:
    """A segment from `start` to `end`, in seconds of the audio, ended; None where the server says no times."""

    text: str
    words: tuple[Word, ...]
    start: float | None
    end: float | None
    item: str
    time: float


@dataclass(frozen=True)
class Heard:
    """Audio up to `until` seconds was listened to; `tokens` and `calls` are those of the decoder so far."""

    until: float
    tokens: int
    calls: int
    time: float


@dataclass(frozen=True)
class Answered:
    """An item that was committed is transcribed; all its text was said. `failed` says why it is not."""

    item: str
    text: str
    time: float
    failed: str = ""


Event = Committed | Tail | Final | Heard | Answered


def address(url: str) -> str:
    """The address of a server's realtime transcription, of that of the server (ws, wss, http or https). ConfigError for
    one that is none."""
    text = url if "://" in url else f"ws://{url}"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    schemes = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
    if not host or parts.scheme not in schemes:
        raise ConfigError(f"{url}: not an address of a server, expected one such as ws://127.0.0.1:8765")
    path = parts.path if parts.path.strip("/") else PATH
    return urlunsplit((schemes[parts.scheme], parts.netloc, path, parts.query or QUERY, ""))


@dataclass
class Realtime:
    """One session as the client sees it: what it sends, and what the server's messages mean.

    `silence` are the seconds after which a segment ends (0: the server's own; None: only by commits). `extends` says
    that the server has the events of speechmtp, `pending` are items that wait to be answered.
    """

    rate: int
    language: str = ""
    silence: float | None = 0.0
    words: bool = False
    model: str = ""
    extends: bool = False
    ready: bool = False
    pending: list[str] = field(default_factory=list)
    _ending: bool = False
    _asked: int = 0  # how often settings were asked for; only what sends counts it
    _updated: int = 0  # how often they were answered
    _with_finals: set[str] = field(default_factory=set)  # items whose last segment was said by itself

    def settings(self) -> str:
        """The message that asks for all this."""
        self._asked += 1
        turns = None if self.silence is None else {"type": "server_vad"}
        if turns and self.silence:
            turns["silence_duration_ms"] = round(1000 * self.silence)  # type: ignore[assignment]
        transcription = {"model": self.model} if self.model else {}
        transcription |= {"language": self.language} if self.language else {}
        given: dict[str, Any] = {"format": {"type": "audio/pcm", "rate": self.rate}, "turn_detection": turns}
        given |= {"transcription": transcription} if transcription else {}
        include = [*EXTENSIONS, *([TIMES] if self.words else [])]
        session = {"type": "transcription", "include": include, "audio": {"input": given}}
        return json.dumps({"type": "session.update", "session": session})

    def audio(self, samples: np.ndarray) -> str:
        """The message of samples int16 [n]."""
        text = base64.b64encode(np.ascontiguousarray(samples, "<i2").tobytes()).decode("ascii")
        return f'{{"type":"input_audio_buffer.append","audio":"{text}"}}'

    def commit(self) -> str:
        """The message that ends a segment."""
        return '{"type":"input_audio_buffer.commit"}'

    def finish(self) -> list[str]:
        """The messages behind the last audio. The settings once more are answered behind the commit, so that all items
        are known then."""
        messages = [self.commit(), self.settings()]
        self._ending = True
        return messages

    @property
    def done(self) -> bool:
        """Whether the end was asked for, and everything is answered."""
        return self._ending and self._asked == self._updated and not self.pending

    def take(self, message: str | bytes, time: float) -> list[Event]:
        """What a message of the server says; `time` is when it came. ProtocolError for what is none, and for an error
        that the server tells of."""
        try:
            given = json.loads(message)
            return self._take(given["type"], given, time)
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolError(
                f"server: a message that cannot be read ({type(error).__name__}: {error}), expected one of OpenAI "
                "Realtime; check the address"
            ) from error

    def _take(self, kind: str, given: dict[str, Any], time: float) -> list[Event]:
        if kind == "session.updated":
            self.extends = EXTENSIONS[1] in (given["session"].get("include") or [])
            self.ready = True
            self._updated += 1
        elif kind == "input_audio_buffer.committed":
            self.pending.append(given["item_id"])
        elif kind == f"{_ITEM}delta":
            return [Committed(given["delta"], given["item_id"], time)] if given["delta"] else []
        elif kind == "speechmtp.tail":
            return [Tail(given["text"], time)]
        elif kind == "speechmtp.heard":
            return [Heard(given["audio_ms"] / 1000, given["tokens"], given["calls"], time)]
        elif kind == "speechmtp.final":
            self._with_finals.add(given["item_id"])
            words = tuple(_word(word) for word in given["words"])
            span = _seconds(given["start_ms"]), _seconds(given["end_ms"])
            return [Final(given["text"], words, *span, given["item_id"], time)]
        elif kind in (f"{_ITEM}completed", f"{_ITEM}failed"):
            return self._answered(given, time)
        elif kind == "error" and given["error"].get("code") != _EMPTY:
            raise ProtocolError(f"server: {' '.join(str(given['error']['message']).split())}")
        return []

    def _answered(self, given: dict[str, Any], time: float) -> list[Event]:
        item = given["item_id"]
        if item in self.pending:
            self.pending.remove(item)
        if "error" in given:
            return [Answered(item, "", time, str(given["error"].get("message") or "no reason was given"))]
        text = given["transcript"]
        said: Sequence[Event] = [] if item in self._with_finals else [Final(text, (), None, None, item, time)]
        self._with_finals.discard(item)
        return [*said, Answered(item, text, time)]


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _word(given: dict[str, Any]) -> Word:
    return Word(given["text"], _seconds(given["start_ms"]), _seconds(given["end_ms"]), given["confidence"])
