"""A server, or its engines alone, with the stub engine."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechmtp.server.app import Server, bound, check_server
from speechmtp.server.config import Limits, ServerConfig

STUB = Path(__file__).resolve().parents[2] / "tools" / "stub_engine.py"


def stub_config(*options: str, limits: Limits | None = None, **given: Any) -> ServerConfig:
    """A configuration whose engines are stubs, with options of theirs."""
    return ServerConfig(port=0, engine=[sys.executable, str(STUB), *options], limits=limits or Limits(), **given)


class Running:
    """A server that runs in a thread: its address, its parts, and what it logged."""

    def __init__(self, config: ServerConfig) -> None:
        self.context = check_server(config)
        self.sock = bound(config)
        self.port: int = self.sock.getsockname()[1]
        self.line, self.code = "", -1
        self.logged: list[logging.LogRecord] = []
        self._ready = threading.Event()
        self._config = config
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.server: Server
        self.loop: asyncio.AbstractEventLoop

    def __enter__(self) -> "Running":
        self._handler = _Kept(self.logged)
        for name in ("speechmtp.server", "asyncio", "websockets"):
            logging.getLogger(name).addHandler(self._handler)
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        for name in ("speechmtp.server", "asyncio", "websockets"):
            logging.getLogger(name).removeHandler(self._handler)

    def _run(self) -> None:
        async def main() -> int:
            self.loop = asyncio.get_running_loop()
            self.server = Server(self._config, self.sock, self.context)
            return await self.server.run(self._say)

        with self.sock:
            self.code = asyncio.run(main())

    def _say(self, line: str) -> None:
        self.line = line
        self._ready.set()

    def send_signal(self, number: int) -> None:
        """As if the process had got a signal."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.server.stop, number)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stop it; the exit code."""
        self.send_signal(number)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server did not stop"
        return self.code

    @property
    def tracebacks(self) -> list[str]:
        """What was logged with one, and other errors."""
        return [record.getMessage() for record in self.logged if record.exc_info or record.levelno >= logging.ERROR]

    def left_over(self) -> tuple[int, int]:
        """How many sessions are known, and tasks run."""

        async def count() -> tuple[int, int]:
            pool = self.server.pool
            return sum(len(engine.sessions) for engine in pool.engines), len(asyncio.all_tasks())

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(10)

    def connect(self, timeout: float = 20.0) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)


class _Kept(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


@contextlib.contextmanager
def running(*options: str, **given: Any) -> Iterator[Running]:
    """A server with stub engines."""
    with Running(stub_config(*options, **given)) as server:
        yield server


def descriptors() -> int:
    """Open files of this process."""
    return len(os.listdir("/proc/self/fd"))
