"""The front's side of uploads: one process that transcribes them, started with the first and again when it is lost."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

from speechmtp.errors import DataError
from speechmtp.server.config import Limits
from speechmtp.server.link import Frame, FrameReader, Kind, frame
from speechmtp.server.protocols.contract import Refused
from speechmtp.server.uploads import Failure, Part, Pulse, Upload, read_part

logger = logging.getLogger("speechmtp.server")

SILENCE = 10.0  # seconds without a sign of life after which the process is killed
STUCK = 300.0  # seconds that it may be about one part
STARTING = 120.0  # seconds that it may take to start
LEAVING = 2.0  # seconds that it may take to leave

_Said = Part | Failure | None  # None: all of it was said


class _Wire(asyncio.Protocol):
    """The front's end of the socket."""

    def __init__(self, took: Callable[[Frame], None], lost: Callable[[], None]) -> None:
        self._reader, self._took, self._lost = FrameReader(), took, lost

    def data_received(self, data: bytes) -> None:
        """Frames came."""
        for one in self._reader.push(data):
            self._took(one)

    def connection_lost(self, exc: Exception | None) -> None:
        """The process is gone."""
        self._lost()


class Transcribing:
    """Uploads, at most `limits.uploads` at once. `models` are pairs of name and model. `command` is that of another
    process in the place of ours, to which `--fd N` is added."""

    def __init__(
        self, models: Sequence[tuple[str, str]], device: str, limits: Limits, command: Sequence[str] = ()
    ) -> None:  # fmt: skip
        ours = [sys.executable, "-m", "speechmtp.server.transcriber", "--device", device]
        ours += ["--seconds", str(limits.upload_seconds)]
        ours += [part for name, model in models for part in ("--model", f"{name}={model}")]
        self._command, self._most = command or ours, limits.uploads
        self.on_loss: Callable[[], None] = lambda: None  # called when the process was lost
        self._process: asyncio.subprocess.Process | None = None
        self._transport: Any = None
        self._starting = asyncio.Lock()
        self._waiting: dict[int, asyncio.Queue[_Said]] = {}
        self._numbers = 0
        self._taken = 0
        self._sign, self._heard, self._pulse = 0.0, False, Pulse()
        self._why = ""  # what the process said when it left
        self._stopping = self._stopped = False
        self._task: asyncio.Task[None] | None = None

    @property
    def active(self) -> int:
        """Uploads that are taken or transcribed now."""
        return self._taken

    @property
    def pid(self) -> int | None:
        """The process; None while there is none."""
        return None if self._process is None or self._transport is None else self._process.pid

    def refuse(self) -> None:
        """Take no further uploads."""
        self._stopping = True

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Room for an upload, from before its body is read. Refused if there is none."""
        if self._stopping:
            raise Refused(503, "stopping", "the server stops; send the file again")
        if self._taken >= self._most:
            raise Refused(503, "too_many_uploads", f"{self._taken} uploads are transcribed, no more at once; try again")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def transcribe(self, upload: Upload) -> AsyncGenerator[Part, None]:
        """The parts of a file as they are decoded; when this is closed, no more is. Refused: 400 for what cannot be
        read or is not possible, 500 where the process fails."""
        await self._start()
        self._numbers += 1
        number, said = self._numbers, asyncio.Queue[_Said]()
        self._waiting[number] = said
        over = False
        try:
            self._tell(frame(Kind.OPEN, number, {**vars(upload)}))
            while (one := await said.get()) is not None:
                if isinstance(one, Failure):
                    over = True
                    code = "invalid_audio" if one.user else "transcription_failed"
                    raise Refused(400 if one.user else 500, code, one.message, "file" if one.user else None)
                yield one
            over = True
        finally:
            self._waiting.pop(number, None)
            if not over:
                self._tell(frame(Kind.CLOSE, number))

    async def stop(self) -> None:
        """End the process, and with it what is being transcribed; no other is started."""
        self._stopped = True
        self._tell(frame(Kind.STOP))
        task = self._task
        if task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(task), LEAVING)
            self._kill()
            await task

    def _tell(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def _start(self) -> None:
        """Start the process unless it runs."""
        async with self._starting:
            if self._stopped:
                raise Refused(503, "stopping", "the server stops; send the file again")
            if self._transport is not None:
                return
            if self._task is not None:
                await self._task
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            self._sign, self._heard, self._pulse, self._why = loop.time(), False, Pulse(), ""
            with theirs:
                try:
                    self._process = await asyncio.create_subprocess_exec(
                        *self._command, "--fd", str(theirs.fileno()), stdin=asyncio.subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()], env={**os.environ, "OMP_NUM_THREADS": "1"},
                    )  # fmt: skip
                except OSError as error:
                    ours.close()
                    logger.error("uploads: their process cannot be started (%s)", error.strerror or error)
                    raise Refused(500, "transcription_failed", "uploads cannot be transcribed now; try later") from None
            gone = asyncio.Event()
            self._transport, _ = await loop.create_connection(lambda: _Wire(self._take, gone.set), sock=ours)
            self._task = loop.create_task(self._watch(self._process, gone))

    async def _watch(self, process: asyncio.subprocess.Process, gone: asyncio.Event) -> None:
        """Wait until the process is gone, and kill it when it gives no sign of life."""
        loop = asyncio.get_running_loop()
        while not gone.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), 0.5)
            silent = loop.time() - self._sign
            if silent > (SILENCE if self._heard else STARTING) or self._pulse.stuck > STUCK:
                break
        self._transport.abort()
        self._transport = None
        self._kill()
        code = await process.wait()
        if not self._stopped:
            logger.warning("uploads: their process was lost (exit code %s)", code)
            self.on_loss()
        failure = Failure(self._why or "the process that transcribes uploads was lost; send the file again", False)
        for said in self._waiting.values():
            said.put_nowait(failure)

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    def _take(self, one: Frame) -> None:
        """A frame came."""
        self._sign, self._heard = asyncio.get_running_loop().time(), True
        if one.kind is Kind.BEAT:
            self._pulse = Pulse(**one.json())
        elif one.kind is Kind.FATAL:
            self._why = str(one.json()["message"])
        elif one.kind is Kind.EVENTS and one.session in self._waiting:
            self._waiting[one.session].put_nowait(_said(one.json()))


def _said(data: dict[str, Any]) -> _Said:
    """What a frame tells of an upload. DataError for what is none of its kinds."""
    if "part" in data:
        return read_part(data["part"])
    if "failed" in data:
        return Failure(**data["failed"])
    if "done" in data:
        return None
    raise DataError(f"uploads: a frame with {', '.join(data)}, expected one of speechmtp")
