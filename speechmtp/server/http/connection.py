"""HTTP/1.1 over one connection: h11 reads and writes it, requests are served one after the other."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from speechmtp.server.http.messages import Reply, Request, refusal
from speechmtp.server.http.routes import serve
from speechmtp.server.http.site import Site
from speechmtp.server.protocols.contract import Refused

logger = logging.getLogger("speechmtp.server")

HELD = 256 << 10  # bytes that wait for the handler
IDLE = 60.0  # seconds between two requests of a connection
FIELDS = 100  # header lines
LINGER = 2.0  # seconds for which the rest of a refused request is read, so that the client sees the refusal
GRACE = 5.0  # seconds from which on a body must have come at the rate asked
AT_ONCE = 0.002  # seconds for which a body is read without a look at other connections
UNREAD = 30.0  # seconds that a client may leave its reply unread
GONE = 1.0  # seconds after the client's end of sending when it counts as gone
_QUERY = 256  # names in a query


class HttpConnection(asyncio.Protocol):
    """One connection of a client, from the first byte of a request on."""

    def __init__(self, site: Site) -> None:
        self._site, self._limits = site, site.limits
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head)
        self._transport: Any = None
        self._task: asyncio.Task[None] | None = None
        self._came, self._writable = asyncio.Event(), asyncio.Event()
        self._writable.set()
        self._paused = self._stopped = self._discards = self._ended = False
        self._between = False  # between two requests
        self._waiting = 0  # bytes that came and were not looked at
        self._address = ""

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._site.connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._live())

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._discards:
            return
        self._waiting += len(data)
        self._h11.receive_data(data)
        if self._waiting > HELD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._came.set()

    def eof_received(self) -> bool:
        """The client sends no more. It may wait for its answer, which is not waited for long: most who end sending are
        gone, and only writing would tell."""
        self._ended = True
        if not self._discards:
            self._h11.receive_data(b"")
        self._came.set()
        if self._discards or self._transport.get_extra_info("sslcontext") is not None:
            return False
        asyncio.get_running_loop().call_later(GONE, self._transport.close)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it what is done for it."""
        self._site.connections.discard(self)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """The client reads more slowly than is written."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has read."""
        self._writable.set()

    def stop(self) -> None:
        """Serve no further request; the connection is closed at once if it is between two."""
        self._stopped = True
        if self._between:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection whatever it is about."""
        self._transport.abort()

    # Its life

    async def _live(self) -> None:
        """Serve requests until one ends the connection."""
        try:
            while await self._serve_one():
                self._h11.start_next_cycle()
                self._waiting = len(self._h11.trailing_data[0])
        except (ConnectionError, TimeoutError):
            self._transport.abort()
        except Exception:
            logger.exception("http: a connection failed")
            self._transport.abort()
        finally:
            self._transport.close()

    async def _serve_one(self) -> bool:
        """Serve a request; whether another may follow."""
        try:
            head = await self._head()
            if head is None:
                return False
            request, body = self._request(head)
        except Refused as refused:
            self._site.metrics.count("http_requests_total", route="none", code=str(refused.status))
            await self._send(refusal(refused), False, "GET")
            await self._linger()
            return False
        async with serve(self._site, request) as reply:
            whole = body.done or await self._skip(body)
            # What a client sends before it has the answer is not served.
            keep = whole and not self._h11.trailing_data[0] and not self._stopped
            await self._send(reply, keep, request.method)
        if not whole:
            await self._linger()
        return keep and self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    async def _skip(self, body: "_Body") -> bool:
        """Pass over the little that is left of a body; whether it was that little."""
        if self._h11.they_are_waiting_for_100_continue:
            return False
        with contextlib.suppress(Refused, TimeoutError):
            async with asyncio.timeout(1.0):
                left = HELD
                async for data in body:
                    left -= len(data)
                    if left < 0:
                        break
        return body.done

    async def _head(self) -> h11.Request | None:
        """The head of the next request; None if the client is done."""
        self._between = not (self._waiting or self._ended)
        try:
            if self._between:
                async with asyncio.timeout(IDLE):
                    await self._more()
        except TimeoutError:
            return None
        finally:
            self._between = False
        try:
            async with asyncio.timeout(self._limits.head_seconds):
                event = await self._event()
        except TimeoutError:
            raise Refused(408, "slow_request", "the head of a request took too long; send it at once") from None
        return event if isinstance(event, h11.Request) else None

    def _request(self, head: h11.Request) -> "tuple[Request, _Body]":
        """The request of a head. Refused for what is none."""
        size = len(head.target) + sum(len(name) + len(value) + 4 for name, value in head.headers)
        if len(head.headers) > FIELDS or size > self._limits.head:
            raise Refused(
                431, "head_too_large", f"a head of {len(head.headers)} lines and {size} bytes, expected {FIELDS} and "
                f"{self._limits.head} at most; send less"
            )  # fmt: skip
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
        lengths = [value for name, value in headers if name == "content-length"]
        if lengths and any(name == "transfer-encoding" for name, _ in headers):
            raise Refused(400, "two_lengths", "Content-Length and Transfer-Encoding together; send one of them")
        length = int(lengths[0]) if lengths else None
        try:
            target = urlsplit(head.target.decode("latin-1"))
            query = parse_qs(target.query, keep_blank_values=True, max_num_fields=_QUERY)
        except ValueError:
            raise Refused(400, "bad_target", "a target that is no path with a query; correct it") from None
        body = _Body(self, self._limits.upload_rate)
        method, path = head.method.decode("latin-1"), unquote(target.path)
        return Request(method, path, query, headers, self._address, body, length), body

    # Reading

    async def _more(self) -> None:
        """Wait until something comes."""
        self._waiting = 0
        self._came.clear()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        await self._came.wait()

    async def _event(self) -> Any:
        """The next event of the client. Refused for what is no HTTP."""
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint
                code = "head_too_large" if status == 431 else "bad_request"
                raise Refused(status, code, "no HTTP/1.1, or too long a head, expected a request; correct it") from None
            if event is not h11.NEED_DATA:
                return event
            await self._more()

    # Writing

    async def _send(self, reply: Reply, keep: bool, method: str) -> None:
        """Send a reply."""
        headers = [("server", "speechmtp"), *reply.headers]
        if isinstance(reply.body, bytes) and reply.status != 304:
            headers.append(("content-length", str(len(reply.body))))
        if not keep:
            headers.append(("connection", "close"))
        phrase = HTTPStatus(reply.status).phrase.encode()
        await self._write(h11.Response(status_code=reply.status, headers=headers, reason=phrase))
        if isinstance(reply.body, bytes):
            if reply.body and method != "HEAD":
                await self._write(h11.Data(data=reply.body))
        elif method != "HEAD":
            async for data in reply.body:
                await self._write(h11.Data(data=data))
        await self._write(h11.EndOfMessage())

    async def _write(self, event: Any) -> None:
        """Write an event. TimeoutError if the client reads too slowly."""
        data = self._h11.send(event)
        if data:
            self._transport.write(data)
        async with asyncio.timeout(UNREAD):
            await self._writable.wait()

    async def let_come(self) -> None:
        """Ask for the body that the client holds back."""
        if self._h11.they_are_waiting_for_100_continue:
            await self._write(h11.InformationalResponse(status_code=100, headers=[]))

    async def next_piece(self) -> Any:
        """The next event of a body."""
        return await self._event()

    async def _linger(self) -> None:
        """Pass over what the client still sends, for a moment: closing at once would take the reply from it."""
        self._discards = True
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # it may be gone
                self._transport.write_eof()
        if self._paused:
            self._transport.resume_reading()
        await asyncio.sleep(LINGER)


class _Body:
    """The body of a request, which comes when the handler asks for it."""

    def __init__(self, connection: HttpConnection, rate: int) -> None:
        self._connection, self._rate = connection, rate
        self.done = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Its pieces."""
        loop = asyncio.get_running_loop()
        await self._connection.let_come()
        came, waited, rested = 0, 0.0, loop.time()
        while not self.done:
            began = loop.time()
            if began - rested > AT_ONCE:  # a body in tiny chunks would keep all others waiting
                await asyncio.sleep(0)
                rested = began = loop.time()
            try:
                async with asyncio.timeout(max(GRACE + came / self._rate - waited, 0.001)):
                    event = await self._connection.next_piece()
            except TimeoutError:
                raise Refused(
                    408, "slow_body", f"a body of less than {self._rate} bytes a second; send it faster"
                ) from None
            waited += loop.time() - began
            if isinstance(event, h11.EndOfMessage):
                self.done = True
            elif isinstance(event, h11.Data):
                came += len(event.data)
                yield bytes(event.data)
            else:
                raise Refused(400, "cut_body", "a body that ends too soon; send all of it")
