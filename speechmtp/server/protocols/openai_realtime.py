"""OpenAI Realtime transcription over a websocket, with the events of its general availability.

With turn detection off an item is the audio between two commits; with it, an item ends with its speech or a commit.
The recogniser cuts segments by itself, and works in order: what it says belongs to the oldest item that waits for its
answer, or to the one that the client speaks into.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from speechmtp.errors import DataError, ProtocolError
from speechmtp.server.messages import (
    Action,
    Audio,
    Clear,
    Cleared,
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
    Settings,
    SpeechStarted,
    SpeechStopped,
    Tail,
)
from speechmtp.server.protocols.contract import Adapter, EndReason, Offer, Refused, SocketProtocol
from speechmtp.server.protocols.encodings import SampleReader, read_base64
from speechmtp.server.protocols.json_guard import read_object, write_object
from speechmtp.server.protocols.openai_items import Clearing, Item, Queue, milliseconds, segment_of
from speechmtp.server.protocols.openai_session import FINAL, HEARD, LOGPROBS, TAIL, WORDS, SessionConfig
from speechmtp.server.protocols.rules import ANSWER, ANSWERED, CODES, Faults, close, close_failed, known_model

_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_SESSION = 3600  # seconds until a session is said to expire
_UNSUPPORTED = ("response.", "conversation.", "output_audio_buffer.", "transcription_session.")
_NAME = 512  # characters of a client's event id that are sent back


class OpenAIRealtime:
    """The adapter of one session."""

    def __init__(self, offer: Offer) -> None:
        """Refused for a model that a strict server does not know."""
        self.wake: float | None = None
        self._ids, self._id = offer.ids, offer.ids("sess_")
        self._expires = int(offer.now) + _SESSION
        self._config = SessionConfig(offer)
        name = next(iter(offer.query.get("model", ())), "")
        if name:
            known_model(name, offer)
            self._config.input["transcription"]["model"] = name
        self._settings = self._config.settings()
        self._reader = SampleReader(self._config.encoding, self._config.rate)
        self._told: Settings | None = None  # the recogniser
        self._sent = 0.0  # seconds of audio
        self._flushes = 0
        self._queue = Queue()
        self._last: str | None = None  # the item that was committed last
        self._faults = Faults()
        self._ending: Close | None = None
        self._closed = False

    def start(self, now: float) -> Sequence[Action]:
        """The first message."""
        return [self._send("session.created", session=self._config.object(self._id, self._expires))]

    # From the client

    def on_client(self, message: str | bytes, now: float) -> Sequence[Action]:
        """A message came; wrong ones are answered with an `error`."""
        if self._closed or self._ending is not None:
            return []
        if isinstance(message, bytes):
            closing = self._faults.binary()
            return self._wrong("invalid_message", "message: binary, expected JSON text", None, None, closing)
        event: Mapping[str, Any] = {}
        try:
            event = read_object(message)
            actions = self._understood(event)
        except ProtocolError as error:
            return self._wrong("invalid_json", str(error), None, event, self._faults.found())
        except DataError as error:
            return self._wrong("invalid_audio", str(error), "audio", event, self._faults.found())
        except Refused as refused:
            mild = refused.code in ("unsupported_event", "input_audio_buffer_commit_empty")
            closing = None if mild else self._faults.found()
            return self._wrong(refused.code, refused.message, refused.param, event, closing)
        self._faults.passed()
        return actions

    def _understood(self, event: Mapping[str, Any]) -> list[Action]:
        kind = event.get("type")
        if kind == "input_audio_buffer.append":
            return self._append(event.get("audio"))
        if kind == "input_audio_buffer.commit":
            return self._commit()
        if kind == "input_audio_buffer.clear":
            return self._clear()
        if kind == "session.update":
            return self._update(event.get("session"))
        if isinstance(kind, str) and kind.startswith(_UNSUPPORTED):
            raise Refused(400, "unsupported_event", f"type: {kind[:64]!r}; this server transcribes only", "type")
        shown = repr(kind)[:64] if isinstance(kind, str | int | float | None) else f"a {type(kind).__name__}"
        known = "session.update, input_audio_buffer.append, .commit or .clear"
        raise Refused(400, "unknown_event", f"type: {shown}, expected {known}", "type")

    def _append(self, audio: Any) -> list[Action]:
        if not isinstance(audio, str):
            raise DataError("audio: no string, expected base64")
        samples = self._reader.push(read_base64(audio))
        return self._heard(samples) or [Audio(samples, self._reader.rate)]  # a message of audio, if only half a sample

    def _heard(self, samples: np.ndarray) -> list[Action]:
        """Hand samples [n] on."""
        if not len(samples):
            return []
        actions: list[Action] = []
        if self._settings != self._told:
            self._told = self._settings
            actions.append(Configure(self._settings))
        if self._queue.open is None:
            self._queue.open = self._new_item()
        self._sent += len(samples) / self._reader.rate
        return [*actions, Audio(samples, self._reader.rate)]

    def _new_item(self) -> Item:
        return Item(self._ids("item_"), self._queue.covered)

    @property
    def _empty(self) -> bool:
        """Whether no audio came behind the last item."""
        return self._sent <= self._queue.covered

    def _commit(self) -> list[Action]:
        actions = self._heard(self._reader.settle())
        if self._empty:
            raise Refused(
                400, "input_audio_buffer_commit_empty", "commit: no audio since the last one; append some before"
            )
        if self._queue.open is None:
            self._queue.open = self._new_item()
        self._flushes += 1
        item = self._queue.commit(self._sent, self._flushes)
        return [*actions, *self._announce(item), Flush(self._flushes)]

    def _announce(self, item: Item) -> list[Action]:
        """Say that an item is committed, unless that was said."""
        if item.announced:
            return []
        item.announced = True
        before, self._last = self._last, item.id
        return [self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=before)]

    def _clear(self) -> list[Action]:
        self._reader.begin()
        if self._empty and not self._queue.waiting:
            return [self._send("input_audio_buffer.cleared")]
        item = self._queue.open
        actions = self._show(item, "") if item is not None else []
        self._queue.clear(self._sent)
        return [*actions, Clear()]

    def _update(self, session: Any) -> list[Action]:
        config = self._config.updated(session)
        if (config.encoding, config.rate) != (self._config.encoding, self._config.rate):
            if not self._empty:
                path = "session.audio.input.format"
                raise Refused(
                    400, "audio_uncommitted", f"{path}: audio waits in another format; commit or clear it", path
                )
            self._reader = SampleReader(config.encoding, config.rate)
        self._config, self._settings = config, config.settings()
        return [self._send("session.updated", session=config.object(self._id, self._expires))]

    # From the recogniser

    def on_core(self, event: CoreEvent, now: float) -> Sequence[Action]:
        """The recogniser says something."""
        if self._closed:
            return []
        if self._ending is not None:
            self.wake = now + ANSWER
        if isinstance(event, Committed | Tail | SpeechStarted | SpeechStopped):
            return self._said(event)
        if isinstance(event, Final):
            return self._final(event)
        if isinstance(event, Heard) and HEARD in self._config.include:
            counts = {"audio_ms": milliseconds(event.time), "tokens": event.tokens, "calls": event.calls}
            return [replace(self._send(HEARD, **counts), droppable=HEARD)]
        if isinstance(event, Cleared) and isinstance(self._queue.head, Clearing):
            self._queue.waiting.popleft()
            return [self._send("input_audio_buffer.cleared")]
        if isinstance(event, Failed):
            return self._failed(event)
        if isinstance(event, Ended):
            self._closed = True
            return [*self._complete_all(), self._ending or close(1011, "the recogniser ended the session")]
        return []

    def _said(self, event: Committed | Tail | SpeechStarted | SpeechStopped) -> list[Action]:
        """Something about the item that is listened to; what is cleared is not told."""
        actions: list[Action] = []
        head = self._queue.head
        if isinstance(event, SpeechStarted) and isinstance(head, Item) and head.stopped:
            actions = self._complete(head)
            self._queue.waiting.popleft()
            head = self._queue.head
        if isinstance(head, Clearing):
            return actions
        if head is None:
            head = self._queue.open = self._new_item()
        if isinstance(event, Committed):
            delta, entries = head.add(event.text, event.words if LOGPROBS in self._config.include else ())
            return [*actions, *self._delta(head, delta, entries)]
        if isinstance(event, Tail):
            return [*actions, *self._show(head, event.text if head.text else event.text.lstrip())]
        if not self._config.detects or head.announced:
            return actions
        if isinstance(event, SpeechStarted):
            if head.began is None:
                head.began = max(head.start, event.start - self._config.padding)
                times = {"audio_start_ms": milliseconds(head.began), "item_id": head.id}
                actions.append(self._send("input_audio_buffer.speech_started", **times))
        elif head.began is not None:
            head.stopped = True
            times = {"audio_end_ms": milliseconds(event.time), "item_id": head.id}
            actions.append(self._send("input_audio_buffer.speech_stopped", **times))
            self._queue.commit(event.time, None)
            actions += self._announce(head)
        return actions

    def _delta(self, item: Item, delta: str, entries: list[dict[str, Any]]) -> list[Action]:
        if not delta:
            return []
        more = {"logprobs": entries} if LOGPROBS in self._config.include else {}
        return [self._send(f"{_TRANSCRIPTION}.delta", item_id=item.id, content_index=0, delta=delta, **more)]

    def _show(self, item: Item, tail: str) -> list[Action]:
        """Show what may still change behind an item's deltas; that nothing does must reach the client."""
        if item.tail == tail or TAIL not in self._config.include:
            return []
        item.tail = tail
        return [replace(self._send(TAIL, item_id=item.id, text=tail), droppable=TAIL if tail else "")]

    def _final(self, event: Final) -> list[Action]:
        """A segment ended, and with it perhaps items."""
        head = self._queue.head
        actions: list[Action] = []
        if isinstance(head, Item):
            actions = [*self._show(head, ""), *self._segment(head, event)]
        if event.flush is not None:
            for one in self._queue.answered(event.flush):
                actions += self._complete(one) if isinstance(one, Item) else [self._send("input_audio_buffer.cleared")]
        elif isinstance(head, Item) and head.stopped and event.reason == "endpoint":
            self._queue.waiting.popleft()
            actions += self._complete(head)
        elif head is self._queue.open is not None and (event.reason == "finish" or self._endpoint(event)):
            item = self._queue.open
            if item.known:
                self._queue.commit(event.time, None)
                self._queue.waiting.pop()
                actions += self._announce(item) + self._complete(item)
        return actions

    def _endpoint(self, event: Final) -> bool:
        return event.reason == "endpoint" and self._config.detects

    def _segment(self, item: Item, event: Final) -> list[Action]:
        """What a segment was, for those who ask."""
        if FINAL not in self._config.include or not (event.text or event.words):
            return []
        return [self._send(FINAL, item_id=item.id, **segment_of(event, times=WORDS in self._config.include))]

    def _complete(self, item: Item) -> list[Action]:
        """The last word on an item."""
        more = {"logprobs": item.logprobs} if LOGPROBS in self._config.include else {}
        usage = {"type": "duration", "seconds": item.seconds}
        event = f"{_TRANSCRIPTION}.completed"
        said = self._send(event, item_id=item.id, content_index=0, transcript=item.text, usage=usage, **more)
        return [*self._show(item, ""), said]

    def _complete_all(self) -> list[Action]:
        """Answer what waits, with what is known of it."""
        items: list[Item | Clearing | None] = [*self._queue.waiting, self._queue.open]
        self._queue = Queue()
        actions: list[Action] = []
        for one in items:
            if isinstance(one, Item) and one.known:
                actions += [*self._announce(one), *self._complete(one)]
        return actions

    def _failed(self, event: Failed) -> list[Action]:
        """The recogniser gave up: so are all items that the client knows of."""
        self._closed = True
        error = {"type": "server_error", "code": event.code, "message": event.message, "param": None}
        items: list[Item | Clearing | None] = [*self._queue.waiting, self._queue.open]
        known = [one for one in items if isinstance(one, Item) and one.known]
        failed = [self._send(f"{_TRANSCRIPTION}.failed", item_id=one.id, content_index=0, error=error) for one in known]
        # Clients take an error for final, and try again after a close alone.
        said = [] if event.code == "overloaded" else [self._send("error", error={**error, "event_id": None})]
        return [*failed, *said, close_failed(event)]

    # Ends

    def on_timer(self, now: float) -> Sequence[Action]:
        """The recogniser's last words did not come in time."""
        self.wake = None
        if self._closed or self._ending is None:
            return []
        self._closed = True
        return [self._ending]

    def on_end(self, reason: EndReason, message: str, now: float) -> Sequence[Action]:
        """The server ends the session; what was said is answered first where that can be waited for."""
        if self._closed or self._ending is not None:
            return []
        closing = close(CODES[reason], message)
        if reason in ANSWERED and self._told is not None:
            self._ending, self.wake = closing, now + ANSWER
            actions = self._heard(self._reader.settle())
            if self._empty or self._config.detects:
                return [*actions, End()]
            return [*actions, *self._commit(), End()]
        self._closed = True
        if reason not in ("policy", "too_fast"):  # no fault of the client, which may try again, or does not read
            return [closing]
        return [self._error(reason, message, None, None), closing]

    # Messages

    def _send(self, kind: str, **fields: Any) -> Send:
        return Send(write_object({"type": kind, "event_id": self._ids("event_"), **fields}))

    def _error(self, code: str, message: str, param: str | None, event_id: Any) -> Send:
        name = event_id[:_NAME] if isinstance(event_id, str) else None
        error = {"type": "invalid_request_error", "code": code, "message": message, "param": param, "event_id": name}
        return self._send("error", error=error)

    def _wrong(
        self, code: str, message: str, param: str | None, event: Mapping[str, Any] | None, closing: Close | None
    ) -> list[Action]:
        """An error of the client, and the end if it was one too many."""
        said = self._error(code, message, param, (event or {}).get("event_id"))
        if closing is None:
            return [said]
        self._closed = True
        return [said, closing]


def refuse(refused: Refused, ids: Callable[[str], str]) -> tuple[int, Mapping[str, str], bytes]:
    """A refusal as OpenAI writes it."""
    kind = "server_error" if refused.status >= 500 else "invalid_request_error"
    error = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}
    return refused.status, {"Content-Type": "application/json"}, write_object({"error": error}).encode()


def open_session(offer: Offer) -> Adapter:
    """A session for a request; Refused for a model that a strict server does not know."""
    return OpenAIRealtime(offer)


OPENAI_REALTIME = SocketProtocol("openai", ("/v1/realtime",), open_session, refuse, ("realtime",))
