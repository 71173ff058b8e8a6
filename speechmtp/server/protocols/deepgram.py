"""Deepgram's live transcription (`GET /v1/listen`): binary messages are audio, text is JSON."""

import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from speechmtp.errors import DataError, ProtocolError
from speechmtp.server.messages import (
    Action,
    Audio,
    Close,
    Committed,
    Configure,
    CoreEvent,
    End,
    Ended,
    Failed,
    Final,
    Flush,
    Heard,
    Send,
    SpeechStarted,
    SpeechStopped,
    Tail,
)
from speechmtp.server.protocols.contract import Adapter, EndReason, Offer, Refused, SocketProtocol
from speechmtp.server.protocols.deepgram_query import plain, read_query, refuse
from speechmtp.server.protocols.encodings import SampleReader
from speechmtp.server.protocols.json_guard import read_object, write_object
from speechmtp.server.protocols.rules import ANSWER, ANSWERED, CODES, Faults, close, close_failed
from speechmtp.words.word import Word

IDLE = 30.0  # seconds without audio or a KeepAlive
BEHIND = 1.0  # seconds of audio that the recogniser may have before it while a client counts as idle


class Deepgram:
    """The adapter of one session."""

    def __init__(self, offer: Offer) -> None:
        """Refused for a query that asks for what is not done here."""
        self.wake: float | None = None
        self._asked = read_query(offer)
        self._id = offer.ids("")
        self._created = datetime.fromtimestamp(offer.now, UTC).isoformat(timespec="milliseconds")
        self._reader = SampleReader(self._asked.encoding, self._asked.rate)
        self._hash = hashlib.sha256()
        self._told = False  # the recogniser
        self._sent = self._listened = 0.0  # seconds of audio
        self._flushes = self._answered = 0
        self._flushed = 0.0  # seconds of audio up to the last flush
        self._covered = 0.0  # seconds of audio that finals cover
        self._text, self._tail, self._shown = "", "", ""
        self._words: list[Word] = []
        self._speaking = False
        self._utterance: float | None = None  # when its last word ended, until that is said
        self._faults = Faults()
        self._last = 0.0  # when the client sent something
        self._ending: Close | None = None
        self._closed = False

    def start(self, now: float) -> Sequence[Action]:
        """Nothing is said."""
        self._last, self.wake = now, now + IDLE
        return []

    # From the client

    def on_client(self, message: str | bytes, now: float) -> Sequence[Action]:
        """A message came; wrong ones are answered with an `Error`."""
        if self._closed or self._ending is not None:
            return []
        self._last = now
        if isinstance(message, bytes):
            return self._audio(message)
        try:
            kind = read_object(message).get("type")
            if kind not in ("KeepAlive", "Finalize", "CloseStream", "Configure"):
                raise ProtocolError("message: type is none of KeepAlive, Finalize, CloseStream, Configure")
        except ProtocolError as error:
            said, closing = self._error("SchemaError", str(error), message[:512]), self._faults.found()
            return [said] if closing is None else [said, self._close(closing)]
        self._faults.passed()
        if kind == "Finalize":
            return self._finalize()
        if kind == "CloseStream":
            self.wake = None
            return self._end(close(1000, ""))
        if kind == "Configure":
            text = "this server does not change a stream's keyterms or features; open another stream"
            return [self._send("ConfigureFailure", request_id=self._id, code="CONFIGURE_KEYTERMS_NOT_SUPPORTED",
                               description=text)]  # fmt: skip
        return []

    def _audio(self, data: bytes) -> list[Action]:
        """Bytes of audio, if only half a sample; none of them are nothing."""
        self._hash.update(data)
        try:
            samples = self._reader.push(data)
        except DataError as error:
            return [self._error("DataError", str(error), ""), self._close(close(1008, str(error)))]
        self._faults.passed()
        return self._heard(samples) or ([Audio(samples, self._reader.rate)] if data else [])

    def _heard(self, samples: np.ndarray) -> list[Action]:
        """Hand samples [n] on."""
        if not len(samples):
            return []
        first: list[Action] = [] if self._told else [Configure(self._asked.settings)]
        self._told = True
        self._sent += len(samples) / self._reader.rate
        return [*first, Audio(samples, self._reader.rate)]

    def _finalize(self) -> list[Action]:
        actions = self._heard(self._reader.settle())
        if self._sent == self._flushed and self._flushes == self._answered:
            return [self._results("", (), self._covered, self._covered, final=True, finalize=True)]
        self._flushes += 1
        self._flushed = self._sent
        return [*actions, Flush(self._flushes)]

    def _end(self, closing: Close) -> list[Action]:
        """Answer what was said, then close."""
        if not self._told:
            return [self._metadata(), self._close(closing)]
        self._ending = closing
        return [*self._heard(self._reader.settle()), End()]

    def _close(self, closing: Close) -> Close:
        self._closed, self.wake = True, None
        return closing

    # From the recogniser

    def on_core(self, event: CoreEvent, now: float) -> Sequence[Action]:
        """The recogniser says something."""
        if self._closed:
            return []
        if self._ending is not None and self.wake is not None:
            self.wake = now + ANSWER
        if isinstance(event, Failed):
            return [self._error(event.code, event.message, ""), self._close(close_failed(event))]
        self._listened = max(self._listened, event.time)
        actions: list[Action] = []
        if isinstance(event, SpeechStarted):
            self._speaking = True
            if self._asked.speech_events:
                actions.append(self._send("SpeechStarted", channel=[0], timestamp=_seconds(event.start)))
        elif isinstance(event, SpeechStopped):
            self._speaking = False
        elif isinstance(event, Committed):
            self._text, self._tail = self._text + event.text, ""
            self._words += event.words
        elif isinstance(event, Tail):
            self._tail = event.text
            actions += self._interim(event.time)
        elif isinstance(event, Heard):
            actions += self._interim(event.time)
        elif isinstance(event, Final):
            actions += self._final(event)
        elif isinstance(event, Ended):
            return [self._metadata(), self._close(self._ending or close(1011, "the recogniser ended the session"))]
        return [*actions, *self._utterance_end(event.time)]

    def _interim(self, time: float) -> list[Action]:
        """What was said since the last final, if it has changed."""
        text = (self._text + self._tail).strip()
        if not self._asked.interim or text == self._shown:
            return []
        self._shown = text
        return [self._results(text, self._words, self._covered, time)]

    def _final(self, event: Final) -> list[Action]:
        """Finals follow each other without a gap: each covers the audio since the one before."""
        start, end = self._covered, max(self._covered, event.end)
        pending = bool(event.text or self._shown) or event.reason == "endpoint" or event.flush is not None
        self._text, self._tail, self._shown, self._words = "", "", "", []
        if event.flush is not None:
            self._answered = event.flush
        if event.text:
            self._utterance = next((word.end for word in reversed(event.words) if word.end is not None), event.end)
        if not pending:
            return []
        self._covered = end
        stopped = event.reason == "finish" or (event.reason == "endpoint" and self._asked.endpoints)
        return [
            self._results(event.text, event.words, start, end, True, stopped, finalize=event.flush is not None),
        ]

    def _utterance_end(self, time: float) -> list[Action]:
        """Say that an utterance has ended, once it is long enough since its last word."""
        gap, last = self._asked.utterance_end, self._utterance
        if gap is None or last is None or self._speaking or self._text or time - last < gap:
            return []
        self._utterance = None
        return [self._send("UtteranceEnd", channel=[0, 1], last_word_end=_seconds(last))]

    # Ends

    def on_timer(self, now: float) -> Sequence[Action]:
        """The client may be idle, or the recogniser's last words did not come in time."""
        if self._closed:
            self.wake = None
            return []
        if self._ending is not None:
            return [self._metadata(), self._close(self._ending)]
        if now - self._last < IDLE or self._sent - self._listened > BEHIND:
            self.wake = max(self._last, now - IDLE + BEHIND) + IDLE
            return []
        return self.on_end("idle", f"no audio or KeepAlive for {IDLE:g} seconds", now)

    def on_end(self, reason: EndReason, message: str, now: float) -> Sequence[Action]:
        """The server ends the session; what was said is answered first where that can be waited for."""
        if self._closed:
            return []
        closing = close(CODES[reason], message)
        if reason not in ANSWERED:
            return [self._error(reason, message, ""), self._close(closing)]
        if self._ending is None:
            actions = self._end(closing)
        else:
            actions, self._ending = [], closing
        self.wake = None if self._closed else now + ANSWER
        return actions

    # Messages

    def _send(self, kind: str, **fields: Any) -> Send:
        return Send(write_object({"type": kind, **fields}))

    def _error(self, variant: str, description: str, message: str) -> Send:
        return self._send("Error", variant=variant, description=description, message=message)

    def _metadata(self) -> Send:
        return self._send(
            "Metadata",
            transaction_key="deprecated",
            request_id=self._id,
            sha256=self._hash.hexdigest(),
            created=self._created.replace("+00:00", "Z"),
            duration=_seconds(self._sent),
            channels=1,
        )

    def _results(
        self,
        text: str,
        words: Sequence[Word],
        start: float,
        end: float,
        final: bool = False,
        stopped: bool = False,
        finalize: bool = False,
    ) -> Send:
        known = [word.confidence for word in words if word.confidence is not None]
        alternative: dict[str, Any] = {
            "transcript": text if self._asked.formatted else plain(text),
            "confidence": round(sum(known) / len(known), 4) if known else 0.0,
            "words": [one for word in words if (one := self._word(word)) is not None],
        }
        name = self._asked.name
        model = {
            "request_id": self._id,
            "model_info": {"name": name, "version": "live", "arch": "speechmtp"},
            "model_uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"speechmtp:{self._asked.settings.model}")),
        }
        said = self._send(
            "Results",
            channel_index=[0, 1],
            start=_seconds(start),
            duration=_seconds(_seconds(end) - _seconds(start)),
            is_final=final,
            speech_final=stopped,
            from_finalize=finalize,
            channel={"alternatives": [alternative]},
            metadata=model,
        )
        return said if final else Send(said.message, droppable="Results")

    def _word(self, word: Word) -> dict[str, Any] | None:
        """A word; None for one without times, or of punctuation alone."""
        bare = plain(word.text)
        if word.start is None or word.end is None or not bare:
            return None
        times = {"start": _seconds(word.start), "end": _seconds(word.end)}
        found = {"word": bare, **times, "confidence": round(word.confidence or 0.0, 4)}
        return {**found, "punctuated_word": word.text} if self._asked.formatted else found


def _seconds(value: float) -> float:
    return round(value, 3)


def open_session(offer: Offer) -> Adapter:
    """A session for a request; Refused for a query that asks for what is not done here."""
    return Deepgram(offer)


def open_second(offer: Offer) -> Adapter:
    """There is no second version here: Refused."""
    raise Refused(404, "not_found", "/v2/listen: not served here, expected /v1/listen; use a model other than flux")


DEEPGRAM = SocketProtocol("deepgram", ("/v1/listen",), open_session, refuse, ("token", "bearer"))
DEEPGRAM_SECOND = SocketProtocol("deepgram-v2", ("/v2/listen",), open_second, refuse, ("token", "bearer"))
