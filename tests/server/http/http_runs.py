"""A server of HTTP alone over a real socket, in a thread of its own, with a stand-in for the process of uploads."""

import asyncio
import http.client
import json
import socket
import sys
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from speechmtp.server.config import Limits
from speechmtp.server.guard import Guard
from speechmtp.server.http.connection import HttpConnection
from speechmtp.server.http.pages import Page
from speechmtp.server.http.site import Site
from speechmtp.server.metrics import Metrics
from speechmtp.server.transcribing import Transcribing

FAKE = [sys.executable, str(Path(__file__).with_name("fake_transcriber.py"))]
BOUNDARY = "b0undary"


@dataclass
class Answer:
    """An answer: names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error."""
        return str(self.json()["error"]["code"])


@dataclass
class Served:
    """A running server."""

    site: Site
    port: int
    loop: asyncio.AbstractEventLoop

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, chunked: bool = False
    ) -> Answer:  # fmt: skip
        """Ask once, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def upload(self, content: bytes, path: str = "/v1/audio/transcriptions", **fields: str | Sequence[str]) -> Answer:
        """Send a form with a file; a field may have several values."""
        kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.ask("POST", path, form(content, **fields), kind)

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A raw connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            yield sock

    def send(self, data: bytes, end: bool = False) -> bytes:
        """Send raw bytes and read until the server closes."""
        with self.connected() as sock:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
            return rest(sock)

    def healthy(self) -> bool:
        """Whether another request is answered, and nothing is left of those before."""
        return self.ask("GET", "/healthz").status == 200

    def idle(self, seconds: float = 5.0) -> bool:
        """Whether soon no connection, upload or request is left."""

        async def wait() -> bool:
            for _ in range(int(seconds / 0.02)):
                if not self.site.connections and not self.site.transcribing.active and not self.site.guard.counted[1]:
                    return True
                await asyncio.sleep(0.02)
            return False

        return bool(self.call(wait()))


def part(name: str, value: bytes, more: str = "") -> bytes:
    """A part of a form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def form(content: bytes, **fields: str | Sequence[str]) -> bytes:
    """A form with a file in the middle of its fields."""
    parts = [
        part(name.removesuffix("_") + "[]" * (not isinstance(values, str)), value.encode())
        for name, values in fields.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    middle = len(parts) // 2
    file = part("file", content, '; filename="a.wav"')
    return b"".join([*parts[:middle], file, *parts[middle:], f"--{BOUNDARY}--\r\n".encode()])


def rest(sock: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    try:
        while data := sock.recv(1 << 16):
            found += data
    except ConnectionResetError:
        pass
    return found


@contextmanager
def quick(**seconds: float) -> Iterator[None]:
    """Nobody is waited for as long as usual."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"LINGER": 0.05, "GONE": 0.1, **seconds}.items():
            patch.setattr(f"speechmtp.server.http.connection.{name}", value)
        yield


@contextmanager
def serving(
    tokens: Sequence[str] = (), pages: Mapping[str, Page] | None = None, problem: str = "",
    command: Sequence[str] = FAKE, languages: Mapping[str, Sequence[str]] | None = None, strict: bool = False,
    **limits: Any,
) -> Iterator[Served]:  # fmt: skip
    """A server with these tokens, pages and limits."""
    allowed = replace(Limits(), **limits)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    models = languages or {"default": ()}
    paths = [(name, name) for name in models]
    site = Site(
        Guard(tokens, (), True, allowed), lambda: models, Transcribing(paths, "cpu", allowed, command), lambda: problem,
        Metrics(), allowed, ["/v1/realtime", "/v1/listen"], strict, {} if pages is None else pages,
    )  # fmt: skip

    async def start() -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(lambda: HttpConnection(site), "127.0.0.1", 0)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        site.abort()
        await site.transcribing.stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    served = Served(site, 0, loop)
    server = served.call(start())
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        served.call(stop(server))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
