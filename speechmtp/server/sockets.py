"""Websockets: who is let in, by which protocol, and who is told what when there is no room."""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from speechmtp.server.admission import choose
from speechmtp.server.config import ServerConfig
from speechmtp.server.guard import Guard, Passed
from speechmtp.server.messages import CoreEvent
from speechmtp.server.pool import Engine, Pool
from speechmtp.server.port import Port, PortConnection
from speechmtp.server.protocols.contract import Adapter, Offer, Refused, SocketProtocol
from speechmtp.server.session import Session
from speechmtp.server.talk import Talk, Watcher

logger = logging.getLogger("speechmtp.server")

FULL = "the server is full; try again in a few seconds"
# LiveKit's OpenAI plugin never tries again after a refusal before the upgrade, but does after a close with 1013.
CLOSED_WHEN_FULL = ("LiveKit Agents", "/v1/realtime")


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return f"{prefix}{secrets.token_hex(12)}"


def _selected(connection: Any, offered: Sequence[Any]) -> Any:
    """The subprotocol that the guard chose."""
    return connection.passed.subprotocol


class Door:
    """Lets websockets in and keeps their sessions. `watch` makes what is told about a session of a protocol, `refused`
    is told why one was not let in."""

    def __init__(
        self, config: ServerConfig, guard: Guard, pool: Pool, protocols: Sequence[SocketProtocol],
        watch: Callable[[str], Watcher], refused: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.talks: set[Talk] = set()
        self.stopping = False
        self._config, self._guard, self._pool, self._watch, self._refused = config, guard, pool, watch, refused
        self._protocols = {path: one for one in protocols for path in one.paths}
        self._subprotocols = sorted({name for one in protocols for name in one.subprotocols})

    @property
    def paths(self) -> Sequence[str]:
        """The paths on which websockets are served."""
        return list(self._protocols)

    def problem(self) -> str:
        """Why no session could start now; empty if one could."""
        if self.stopping:
            return "stopping"
        if all(engine.readiness is None for engine in self._pool.engines):
            return "starting"
        return "" if self._place() is not None else "full"

    async def serve(self, port: Port, sock: Any, ssl: Any = None) -> Server:
        """Serve on a bound socket."""
        limits = self._config.limits
        made = type("Connection", (PortConnection,), {"port": port})
        timeout: dict[str, Any] = {"ssl_handshake_timeout": limits.head_seconds} if ssl is not None else {}
        return await serve(
            self._talk, sock=sock, ssl=ssl, create_connection=made, process_request=self._offer,
            select_subprotocol=_selected, compression=None,
            open_timeout=limits.head_seconds, ping_interval=20, ping_timeout=None, close_timeout=2,
            max_size=limits.message, max_queue=16, write_limit=32 << 10, server_header=None, backlog=256, **timeout,
        )  # fmt: skip

    # Before the upgrade

    def _offer(self, connection: Any, request: Request) -> Response | None:
        """Let a websocket in, or say why not."""
        parts = urlsplit(request.path)
        protocol = self._protocols.get(parts.path)
        try:
            query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=64)
            headers = list(request.headers.raw_items())
            connection.passed = Passed()
            passed = self._guard.check(
                headers, query, connection.address, time.monotonic(), subprotocols=self._subprotocols
            )
            if connection.gone:
                raise Refused(400, "gone", "the connection is closed")
            if protocol is None:
                raise Refused(404, "not_found", f"no websocket here; try {', '.join(self._protocols)}")
            offer = self._made_offer(parts.path, query, dict(headers))
            adapter = protocol.open(offer)
            self._guard.enter(passed)
        except (Refused, ValueError) as error:
            return self._response(protocol, error)
        connection.passed = passed
        engine = self._place()
        connection.left = lambda: self._leave(connection)
        connection.adapter, connection.protocol_name, connection.session = adapter, "", None
        if protocol is not None:
            connection.protocol_name = protocol.name
        if engine is None:
            return self._no_room(connection, request, protocol)
        connection.session = Waiting(self._pool, engine)
        return None

    def _made_offer(self, path: str, query: Mapping[str, Sequence[str]], headers: Mapping[str, str]) -> Offer:
        names = [name for name, _ in self._config.models]
        readiness = next((one.readiness for one in self._pool.engines if one.readiness is not None), None)
        languages = {} if readiness is None else readiness.models
        return Offer(
            path, query, new_id, names, languages, {name.lower(): value for name, value in headers.items()},
            now=time.time(), strict=self._config.strict_models,
        )  # fmt: skip

    def _place(self) -> Engine | None:
        """The engine for one more session."""
        if self.stopping:
            return None
        config, engines = self._config, self._pool.engines
        found = choose([one.room for one in engines], config.crowded_step, config.share, config.sessions)
        return None if found is None else engines[found]

    def _no_room(self, connection: Any, request: Request, protocol: SocketProtocol | None) -> Response | None:
        agent, path = CLOSED_WHEN_FULL
        self._refused(self.problem() or "full")
        if agent in request.headers.get("User-Agent", "") and urlsplit(request.path).path == path:
            return None  # closed at once, with 1013
        return self._response(protocol, Refused(503, "server_full", "the server stops" if self.stopping else FULL))

    def _response(self, protocol: SocketProtocol | None, error: Refused | ValueError) -> Response:
        if not isinstance(error, Refused):
            error = Refused(400, "bad_query", "the query has too many names or cannot be read; send fewer")
        if error.status in (401, 403):
            self._refused(error.code)
        protocol = protocol or next(iter(self._protocols.values()))
        status, headers, body = protocol.refuse(error, new_id)
        found = Headers(list(headers.items()))
        found["Content-Length"], found["Connection"] = str(len(body)), "close"
        if status == 503:
            found["Retry-After"] = str(random.randint(1, 5))
        return Response(status, HTTPStatus(status).phrase, found, body)

    def _leave(self, connection: Any) -> None:
        """The connection is gone, whether or not it was a session."""
        self._guard.leave(connection.passed)
        if connection.session is not None:
            connection.session.free()

    # Then

    async def _talk(self, connection: ServerConnection) -> None:
        given: Any = connection
        with contextlib.suppress(ConnectionClosed):
            given.release()
            if given.session is None:
                await connection.close(1013, FULL)
                return
            adapter: Adapter = given.adapter
            talk = Talk(
                given, adapter, given.session.open, self._config.limits, self._crowded, self._watch(given.protocol_name)
            )
            self.talks.add(talk)
            try:
                await talk.run()
            finally:
                self.talks.discard(talk)
                given.session.free()

    def _crowded(self) -> bool:
        """Whether all sessions together have more audio waiting than they may."""
        return sum(talk.session.journal.waiting for talk in self.talks) > self._config.limits.waiting_all

    async def watch(self) -> None:
        """Check all sessions once a second, without end."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            for talk in list(self.talks):
                talk.check(loop.time())

    async def drain(self, seconds: float) -> None:
        """Let sessions end by themselves for that long, then end them: they get their last words."""
        self.stopping = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.talks and loop.time() < deadline:
            await asyncio.sleep(0.05)
        for talk in list(self.talks):
            talk.end("stopping", "the server stops; connect again")
        deadline = loop.time() + 5.0
        while self.talks and loop.time() < deadline:
            await asyncio.sleep(0.02)


class Waiting:
    """A place in an engine that is kept for a connection, and its session."""

    def __init__(self, pool: Pool, engine: Engine) -> None:
        self._hear: Callable[[Sequence[CoreEvent]], None] = lambda events: None
        self._session: Session | None = pool.open(engine, lambda events: self._hear(events))

    def open(self, hear: Callable[[Sequence[CoreEvent]], None]) -> Session:
        """The session, whose events `hear` gets."""
        assert self._session is not None
        self._hear = hear
        return self._session

    def free(self) -> None:
        """Free the place."""
        if self._session is not None:
            self._session.leave()
            self._session = None
