"""The protocol of vosk-server: a message of audio, an answer, and so on until `eof`.

Each binary message has one answer: the words so far, or the text of segments that have ended. Clients wait for it
before they send more, so it is given when the audio was listened to, or after a short time with what is there.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    Send,
    Settings,
    Tail,
)
from speechmtp.server.protocols.contract import Adapter, EndReason, Offer, Refused, SocketProtocol
from speechmtp.server.protocols.encodings import SampleReader, checked_rate
from speechmtp.server.protocols.json_guard import read_object, write_object
from speechmtp.server.protocols.rules import ANSWER, ANSWERED, CODES, Faults, close, close_failed, known_model
from speechmtp.words.word import Word

RATE = 8000.0  # Hz, where the client names none
WAIT = 0.3  # seconds that an answer may take
NEAR = 0.1  # seconds of audio that the recogniser may hold back, waiting for a whole frame
MOST = 32  # alternatives that a client may ask for; there is one


@dataclass
class _Waiting:
    """An answer that the client waits for: when `heard` seconds of audio were listened to, or at the time `until`. With
    `flush` only the answer to that will do."""

    heard: float
    until: float
    flush: int | None = None


class Vosk:
    """The adapter of one session."""

    def __init__(self, offer: Offer) -> None:
        self.wake: float | None = None
        self._settings = Settings(known_model("", offer), words=True)
        self._reader = SampleReader("linear16", RATE)
        self._with_words, self._alternatives = True, 0
        self._waiting: deque[_Waiting] = deque()
        self._told: Settings | None = None  # the recogniser
        self._sent = self._listened = 0.0  # seconds of audio
        self._flushes = self._flushed = 0
        self._text, self._tail = "", ""  # of the segment that goes on
        self._ended: list[Final] = []  # segments that the client has not heard of
        self._faults = Faults()
        self._ending: Close | None = None
        self._closed = False

    def start(self, now: float) -> Sequence[Action]:
        """Nothing is said."""
        return []

    # From the client

    def on_client(self, message: str | bytes, now: float) -> Sequence[Action]:
        """A message came; wrong ones are not answered."""
        if self._closed or self._ending is not None:
            return []
        if isinstance(message, bytes) and not _may_be_eof(message):
            return self._audio(message, now)
        try:
            given = read_object(message)
        except ProtocolError:
            return self._audio(message, now) if isinstance(message, bytes) else self._fault()
        if given.get("eof"):
            return self._end(close(1000, ""))
        if isinstance(message, bytes):
            return self._audio(message, now)
        if given.get("reset"):
            self._faults.passed()
            return self._reset(now)
        if isinstance(given.get("config"), dict):
            return self._configure(given["config"])
        return self._fault()

    def _fault(self) -> list[Action]:
        closing = self._faults.found()
        return [] if closing is None else [self._close(closing)]

    def _audio(self, data: bytes, now: float) -> list[Action]:
        try:
            samples = self._reader.push(data)
        except DataError as error:
            return [self._close(close(1008, str(error)))]
        self._faults.passed()
        actions = self._heard(samples) or [Audio(samples, self._reader.rate)]
        self._waiting.append(_Waiting(self._sent - NEAR, now + WAIT))
        return [*actions, *self._answers(now)]

    def _heard(self, samples: np.ndarray) -> list[Action]:
        """Hand samples [n] on."""
        if not len(samples):
            return []
        first: list[Action] = [] if self._told == self._settings else [Configure(self._settings)]
        self._told = self._settings
        self._sent += len(samples) / self._reader.rate
        return [*first, Audio(samples, self._reader.rate)]

    def _configure(self, config: Mapping[str, Any]) -> list[Action]:
        """Settings that are known; others, and the model, are left alone."""
        rate, most = config.get("sample_rate", self._reader.given), config.get("max_alternatives", self._alternatives)
        checked = checked_rate(rate)
        if checked is None:
            return [self._close(close(1008, f"config: sample_rate {rate!r:.40}, expected Hz, such as 16000"))]
        if isinstance(most, bool) or not isinstance(most, int) or not 0 <= most <= MOST:
            return self._fault()
        self._faults.passed()
        self._alternatives = most
        self._with_words = bool(config.get("words", self._with_words))
        self._settings = replace(self._settings, words=self._with_words)
        if checked != self._reader.given:
            self._reader = SampleReader("linear16", checked)
        return []

    def _reset(self, now: float) -> list[Action]:
        """End the segment here."""
        actions = self._heard(self._reader.settle())
        if self._told is None:
            return [self._final()]
        self._flushes += 1
        self._waiting.append(_Waiting(self._sent, now, self._flushes))
        return [*actions, Flush(self._flushes)]

    def _end(self, closing: Close) -> list[Action]:
        """Answer what was said, then close."""
        actions = self._heard(self._reader.settle())
        if self._told is None:
            return [*self._all(), self._final(), self._close(closing)]
        self._ending, self.wake = closing, None
        return [*actions, End()]

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
            return [*self._all(), *([self._final()] if self._ended else []), self._close(close_failed(event))]
        if isinstance(event, Committed):
            self._text, self._tail = self._text + event.text, ""
        elif isinstance(event, Tail):
            self._tail = event.text
        elif isinstance(event, Final):
            self._text, self._tail = "", ""
            self._flushed = self._flushed if event.flush is None else event.flush
            self._ended += [event] if event.text else []
        elif isinstance(event, Ended):
            closing = self._ending or close(1011, "the recogniser ended the session")
            return [*self._all(), self._final(), self._close(closing)]
        else:
            self._listened = max(self._listened, event.time)
        return self._answers(now)

    # Answers

    def _answers(self, now: float) -> list[Action]:
        """What can be answered now, in order."""
        actions: list[Action] = []
        while self._waiting and self._ending is None:
            first = self._waiting[0]
            if first.flush is None and self._listened < first.heard and now < first.until:
                break
            if first.flush is not None and self._flushed < first.flush:
                break
            self._waiting.popleft()
            actions.append(self._final() if first.flush is not None else self._answer())
        if self._ending is None:
            head = self._waiting[0] if self._waiting else None
            self.wake = None if head is None or head.flush is not None else head.until
        return actions

    def _all(self) -> list[Action]:
        """An answer to each that waits; what has ended is left to the last one, which some clients alone look at."""
        answers: list[Action] = [self._partial() if one.flush is None else self._final() for one in self._waiting]
        self._waiting.clear()
        return answers

    def _answer(self) -> Send:
        """The segments that have ended, or the words so far."""
        return self._final() if self._ended else self._partial()

    def _partial(self) -> Send:
        """The words so far."""
        return Send(write_object({"partial": (self._text + self._tail).strip()}))

    def _final(self) -> Send:
        """The segments that have ended, as one."""
        ended, self._ended = self._ended, []
        text = " ".join(one.text for one in ended)
        words = [word for one in ended for word in one.words]
        result = [one for word in words if (one := self._word(word)) is not None] if self._with_words else []
        known = [word.confidence for word in words if word.confidence is not None]
        if self._alternatives:
            best: dict[str, Any] = {"confidence": round(sum(known) / len(known), 6) if known else 1.0, "text": text}
            if result:
                best["result"] = result
            return Send(write_object({"alternatives": [best]}))
        return Send(write_object({"result": result, "text": text} if result else {"text": text}))

    def _word(self, word: Word) -> dict[str, Any] | None:
        """A word; None for one without times."""
        if word.start is None or word.end is None:
            return None
        found = {"end": round(word.end, 3), "start": round(word.start, 3), "word": word.text}
        return found if self._alternatives else {"conf": round(word.confidence or 0.0, 6), **found}

    # Ends

    def on_timer(self, now: float) -> Sequence[Action]:
        """A client has waited long enough, or the recogniser's last words did not come in time."""
        if self._closed:
            return []
        if self._ending is not None:
            return [*self._all(), self._final(), self._close(self._ending)]
        return self._answers(now)

    def on_end(self, reason: EndReason, message: str, now: float) -> Sequence[Action]:
        """The server ends the session; what was said is answered first where that can be waited for."""
        if self._closed:
            return []
        closing = close(CODES[reason], message)
        if reason not in ANSWERED:
            return [self._close(closing)]
        actions = self._end(closing) if self._ending is None else []
        self._ending = closing
        self.wake = None if self._closed else now + ANSWER
        return actions


def _may_be_eof(data: bytes) -> bool:
    """Whether bytes may be the message of the end, which some clients send as binary."""
    return len(data) <= 64 and data.lstrip()[:1] == b"{" and b"eof" in data


def refuse(refused: Refused, ids: Callable[[str], str]) -> tuple[int, Mapping[str, str], bytes]:
    """A refusal: vosk knows none, so a line."""
    return refused.status, {"Content-Type": "text/plain; charset=utf-8"}, f"{refused.message}\n".encode()


def open_session(offer: Offer) -> Adapter:
    """A session for a request."""
    return Vosk(offer)


VOSK = SocketProtocol("vosk", ("/",), open_session, refuse)
