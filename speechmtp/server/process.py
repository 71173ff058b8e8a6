"""A process that computes for the front: how it is started, spoken to and ended."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from speechmtp.server.link import Frame, FrameReader, Kind, frame


class Process:
    """A running process with a pair of sockets between it and the front. `gone` is set when it hangs up."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.gone = asyncio.Event()
        self.sign = asyncio.get_running_loop().time()  # when it last gave a sign of life
        self._process = process
        self._transport: Any = None

    @classmethod
    async def start(cls, command: Sequence[str], take: Callable[[Frame], None]) -> "Process":
        """Start a command, to which `--fd N` is added; `take` gets its frames. OSError if it cannot be started."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                made = cls(
                    await asyncio.create_subprocess_exec(
                        *command, "--fd", str(theirs.fileno()), stdin=asyncio.subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()], env={**os.environ, "OMP_NUM_THREADS": "1"},
                    )
                )  # fmt: skip
            except OSError:
                ours.close()
                raise
        loop = asyncio.get_running_loop()
        made._transport, _ = await loop.create_connection(lambda: _Wire(made, take), sock=ours)
        return made

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def tell(self, data: bytes) -> None:
        """Send frames."""
        self._transport.write(data)

    @property
    def silent(self) -> float:
        """Seconds since its last sign of life."""
        return asyncio.get_running_loop().time() - self.sign

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # `send_signal` may take the exit code from asyncio

    async def end(self) -> int:
        """Hang up, end it, and wait until it is gone; its exit code."""
        self._transport.abort()
        self.kill()
        return await self._process.wait()

    async def leave(self, seconds: float) -> None:
        """Ask it to leave, and wait for that long until it does."""
        self.tell(frame(Kind.STOP))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.gone.wait()


class _Wire(asyncio.Protocol):
    """The front's end of the sockets."""

    def __init__(self, process: Process, take: Callable[[Frame], None]) -> None:
        self._process, self._take, self._reader = process, take, FrameReader()

    def data_received(self, data: bytes) -> None:
        """Frames came."""
        self._process.sign = asyncio.get_running_loop().time()
        for one in self._reader.push(data):
            self._take(one)

    def connection_lost(self, exc: Exception | None) -> None:
        """The process is gone."""
        self._process.gone.set()
