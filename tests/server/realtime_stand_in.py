"""Stands in for the server: the page's files, and OpenAI's realtime protocol with words that depend only on how much
was heard. It keeps what it receives, and can be full, ask for a token, or drop connections."""

import asyncio
import base64
import json
import mimetypes
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

import speechmtp

PAGE = Path(speechmtp.__file__).parent / "server" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; worker-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TEXT = "I opened my eyes upon a strange and weird landscape. I knew that I was on Mars."
PER_WORD = 150  # milliseconds of audio
SHOWN = 3  # words in the tail


@dataclass
class Behaviour:
    """What the stand-in does. `drop` ends connections after that many seconds of audio, with `drop_code` or, if 0,
    without a word; `refuse` is an HTTP status for websockets; `delay` are seconds before a commit is answered."""

    text: str = TEXT
    token: str = ""
    refuse: int = 0
    ready: int = 200
    drop: float = 0.0
    drop_code: int = 0
    drop_reason: str = ""
    delay: float = 0.0
    extends: bool = True  # whether it knows the events of speechmtp


@dataclass
class Heard:
    """One connection: its samples int16 and all messages of the client."""

    rate: int = 24000
    pieces: list[np.ndarray] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> np.ndarray:
        """All samples [N]."""
        return np.concatenate([np.zeros(0, np.int16), *self.pieces])


class StandIn:
    """The server, on a free port of loopback, in a thread of its own."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.sessions: list[Heard] = []
        self.requests: list[tuple[str, int]] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)

    def __enter__(self) -> "StandIn":
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}/"

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        async with serve(
            self._talk, "127.0.0.1", 0, process_request=self._http, compression=None, close_timeout=0.2,
            select_subprotocol=lambda connection, offered: "realtime" if "realtime" in offered else None,  # type: ignore[arg-type,return-value]
        ) as server:  # fmt: skip
            self._note_port(server)
            await self._stop.wait()

    def _note_port(self, server: Server) -> None:
        self.port = next(iter(server.sockets)).getsockname()[1]
        self._started.set()

    def _http(self, connection: ServerConnection, request: Request) -> Response | None:
        path = urlsplit(request.path).path
        status, body, kind = self._answer(path, request.headers)
        if not status:
            return None
        self.requests.append((path, status))
        headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
        headers["Content-Security-Policy"] = POLICY
        headers["X-Content-Type-Options"] = "nosniff"
        return Response(status, HTTPStatus(status).phrase, headers, body)

    def _answer(self, path: str, headers: Headers) -> tuple[int, bytes, str]:
        """Status, body and type; a status of 0 for a websocket that is let in."""
        how, token = self.behaviour, self.behaviour.token
        offered = headers.get("Sec-WebSocket-Protocol", "")
        known = not token or token in headers.get("Authorization", "") or f"key.{token}" in offered
        if path == "/v1/realtime":
            if not known:
                return 401, b'{"error":{"message":"token: missing or wrong"}}', "application/json"
            return how.refuse, b'{"error":{"message":"all places are taken; try again soon"}}', "application/json"
        if path == "/v1/models":
            return (200 if known else 401), b"{}", "application/json"
        if path == "/readyz":
            return how.ready, b"{}", "application/json"
        file = PAGE / ("index.html" if path == "/" else path.lstrip("/"))
        if file.parent != PAGE or not file.is_file():
            return 404, b"not found", "text/plain"
        kind = mimetypes.guess_type(file.name)[0] or "text/plain"
        return 200, file.read_bytes(), "text/javascript" if kind.endswith("javascript") else kind

    async def _talk(self, connection: ServerConnection) -> None:
        heard = Heard()
        self.sessions.append(heard)
        with suppress(ConnectionClosed):
            await _Talk(connection, self.behaviour, heard).run()


class _Talk:
    """One session. Words are committed `SHOWN` words behind those that were heard."""

    def __init__(self, connection: ServerConnection, how: Behaviour, heard: Heard) -> None:
        self.connection, self.how, self.heard = connection, how, heard
        self.words: Sequence[str] = how.text.split()
        self.include: list[str] = []
        self.samples = 0
        self.said = 0  # words so far
        self.item, self.item_words, self.item_begin = 1, list[str](), 0.0

    @property
    def ms(self) -> float:
        """Milliseconds heard."""
        return 1000 * self.samples / self.heard.rate

    async def send(self, kind: str, **more: Any) -> None:
        """Send an event; those of speechmtp only if they were asked for."""
        asked = kind in self.include or not kind.startswith("speechmtp.")
        if asked and (self.how.extends or not kind.startswith("speechmtp.")):
            await self.connection.send(json.dumps({"type": kind, "event_id": "event_1", **more}))

    async def run(self) -> None:
        """Until the client leaves."""
        await self.send("session.created", session={"type": "transcription"})
        async for text in self.connection:
            message = json.loads(text)
            self.heard.messages.append(message)
            kind = message["type"]
            if kind == "session.update":
                await self.update(message["session"])
            elif kind == "input_audio_buffer.append":
                await self.append(message["audio"])
            elif kind == "input_audio_buffer.commit":
                await self.commit(message.get("event_id"))
            if self.how.drop and self.ms > 1000 * self.how.drop:
                if self.how.drop_code:
                    await self.connection.close(self.how.drop_code, self.how.drop_reason)
                else:
                    self.connection.transport.abort()
                return

    async def update(self, session: dict[str, Any]) -> None:
        """Take settings."""
        self.include = session.get("include", self.include)
        self.heard.rate = session.get("audio", {}).get("input", {}).get("format", {}).get("rate", self.heard.rate)
        known = self.include if self.how.extends else []
        await self.send("session.updated", session={"include": known, "type": "transcription"})

    async def append(self, audio: str) -> None:
        """Take audio, and say what it makes heard."""
        piece = np.frombuffer(base64.b64decode(audio, validate=True), np.int16)
        self.heard.pieces.append(piece)
        before = int(self.ms // PER_WORD)
        self.samples += len(piece)
        if before != int(self.ms // PER_WORD):
            await self.advance(max(0, int(self.ms // PER_WORD) - SHOWN))
            tail = " ".join(self.words[self.said : self.said + SHOWN])
            await self.send("speechmtp.tail", item_id=f"item_{self.item}", text=tail and f" {tail}")
        await self.send(
            "speechmtp.heard", audio_ms=round(self.ms), tokens=round(self.ms / 100), calls=round(self.ms / 250)
        )

    async def advance(self, until: int) -> None:
        """Commit words up to a place."""
        item = f"item_{self.item}"
        while self.said < min(until, len(self.words)):
            if not self.item_words:
                await self.send(
                    "input_audio_buffer.speech_started", item_id=item, audio_start_ms=round(self.item_begin)
                )
            word = self.words[self.said]
            delta = f" {word}" if self.item_words else word
            self.item_words.append(word)
            self.said += 1
            await self.send(
                "conversation.item.input_audio_transcription.delta", item_id=item, content_index=0, delta=delta
            )

    async def commit(self, event_id: str | None) -> None:
        """End the item."""
        if self.ms == self.item_begin:
            error = {"type": "invalid_request_error", "code": "input_audio_buffer_commit_empty", "param": None}
            await self.send("error", error={**error, "message": "no audio", "event_id": event_id})
            return
        item = f"item_{self.item}"
        await self.send("input_audio_buffer.committed", item_id=item, previous_item_id=None)
        await asyncio.sleep(self.how.delay)
        await self.advance(int(self.ms // PER_WORD) or 1)
        text = " ".join(self.item_words)
        times = {"start_ms": round(self.item_begin), "end_ms": round(self.ms)}
        words = [{"text": word, "start_ms": None, "end_ms": None, "confidence": 0.9} for word in self.item_words]
        await self.send("speechmtp.tail", item_id=item, text="")
        await self.send("speechmtp.final", item_id=item, text=text, words=words, **times)
        await self.send(
            "conversation.item.input_audio_transcription.completed", item_id=item, content_index=0, transcript=text,
            usage={"type": "duration", "seconds": round((self.ms - self.item_begin) / 1000, 3)},
        )  # fmt: skip
        self.item, self.item_words, self.item_begin = self.item + 1, [], self.ms
