"""One port for websockets and HTTP: the head of each connection decides who speaks with it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import h11
from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Frame

from speechmtp.server.config import Limits
from speechmtp.server.guard import Guard
from speechmtp.server.protocols.contract import Refused

logger = logging.getLogger("speechmtp.server")

HELD = 64 << 10  # bytes that may come before the handshake is done

_PHRASES = {
    400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable", 505: "HTTP Version Not Supported",
}  # fmt: skip


class Port:
    """What the connections of a port share. `http` makes the protocol of those that are not websockets."""

    def __init__(self, guard: Guard, limits: Limits, http: Callable[[], asyncio.Protocol]) -> None:
        self.guard, self.limits, self.http = guard, limits, http


class PortConnection(ServerConnection):
    """A connection of the port. It reads the head itself, since the handshake of websockets has no time limit before
    it, takes no body, and cannot serve other requests; then it replays what it has read."""

    port: Port  # set on the subclass that a server makes of it

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.address = ""
        self._counted = False
        self.last_byte = self.loop.time()
        self.fragments_since: float | None = None  # when a message began that is not complete
        self.half_closed = self.gone = False
        self.on_half_close: Callable[[], None] = lambda: None
        self.left: Callable[[], None] | None = None  # called when the connection is lost
        self._head = bytearray()
        self._held: bytearray | None = None  # what came behind the head, until the handshake is done
        self._decided = False
        self._timer: asyncio.TimerHandle | None = None
        self._raw: asyncio.Transport

    # The head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the head."""
        self._raw = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) and peer else "local"
        try:
            self.port.guard.connect(self.address)
            self._counted = True
        except Refused:
            self._counted = False
        self._timer = self.loop.call_later(self.port.limits.head_seconds, self._refuse, 408)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        self.last_byte = self.loop.time()
        if self._held is not None:
            self._held += data
            if len(self._held) > HELD:
                self._raw.pause_reading()
        elif self._decided:
            super().data_received(data)
        else:
            self._head += data
            self._decide()

    def _decide(self) -> None:
        """Find out who speaks, once the head is there."""
        if self._head[:1] == b"\x16":  # a TLS handshake: there is nobody to answer
            self._raw.abort()
            return
        end = self._head.find(b"\r\n\r\n")
        if end < 0 and len(self._head) <= self.port.limits.head:
            return
        upgrade = _upgrade(bytes(self._head[: end + 4])) if end >= 0 else None
        if not self._counted:
            upgrade = 503
        if upgrade is not None and upgrade != 101:
            self._refuse(upgrade)
            return
        self._stop_timer()
        self._decided = True
        data = bytes(self._head)
        self._head.clear()
        if upgrade is None:
            other = _counted(self.port.http(), self._gone)
            self._raw.set_protocol(other)
            other.connection_made(self._raw)
            other.data_received(data)
        else:
            super().connection_made(self._raw)
            self._held = bytearray(data[end + 4 :])
            super().data_received(data[: end + 4])

    def _refuse(self, status: int) -> None:
        """Answer what nobody can, and close."""
        self._stop_timer()
        self._decided = True
        later = "Retry-After: 5\r\n" if status == 503 else ""
        head = f"HTTP/1.1 {status} {_PHRASES[status]}\r\n{later}Connection: close\r\nContent-Length: 0\r\n\r\n"
        self._raw.write(head.encode())
        self._raw.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Then

    def release(self) -> None:
        """The handshake is done: take what came behind the head. Frames before are not what the library expects."""
        held, self._held = self._held, None
        if held is not None:
            if len(held) > HELD:
                self._raw.resume_reading()
            super().data_received(bytes(held))

    def process_event(self, event: Any) -> None:
        """Note messages that come in fragments."""
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            if event.fin:
                self.fragments_since = None
            elif self.fragments_since is None:
                self.fragments_since = self.loop.time()
        super().process_event(event)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more; what it has asked for may still be on its way."""
        self.half_closed = True
        if not hasattr(self, "transport") or self._raw.get_extra_info("ssl_object") is not None:
            return None  # TLS cannot be half closed
        self.on_half_close()
        return True

    @property
    def heard_out(self) -> bool:
        """Whether the client sends no more, and all that it sent was taken."""
        return self.half_closed and self._held is None and not len(self.recv_messages.frames)

    def give_up(self) -> None:
        """Nothing more is to be sent to a client that sends no more."""
        super().eof_received()
        self.transport.close()

    def pause_writing(self) -> None:
        """Read no more from a client that does not read: answers to its pings would pile up."""
        super().pause_writing()
        self._raw.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if not self.recv_messages.paused:
            self._raw.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if hasattr(self, "transport"):
            super().connection_lost(exc)
        self._gone()

    def _gone(self) -> None:
        self.gone = True
        self._stop_timer()
        if self._counted:
            self._counted = False
            self.port.guard.disconnect(self.address)
        if self.left is not None:
            self.left()


def _counted(protocol: asyncio.Protocol, gone: Callable[[], None]) -> asyncio.Protocol:
    """The protocol; `gone` is called when its connection is lost."""
    lost = protocol.connection_lost

    def connection_lost(exc: Exception | None) -> None:
        lost(exc)
        gone()

    protocol.connection_lost = connection_lost  # type: ignore[method-assign]
    return protocol


def _upgrade(head: bytes) -> int | None:
    """What to do with a head: None: it is plain HTTP; 101: a websocket; another status: refuse it."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    try:
        parser.receive_data(head)
        request = parser.next_event()
    except h11.RemoteProtocolError:
        return None  # HTTP says what is wrong
    if not isinstance(request, h11.Request):
        return None
    headers = {bytes(name).lower(): bytes(value) for name, value in request.headers}
    if b"websocket" not in headers.get(b"upgrade", b"").lower() or request.method != b"GET":
        return None
    if request.http_version != b"1.1":
        return 505
    if b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip() != b"0":
        return 400
    return 101
