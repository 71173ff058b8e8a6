"""The front's side of uploads: one process that transcribes them, started with the first and again when it is lost."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

from speechmtp.errors import DataError
from speechmtp.server.config import Limits
from speechmtp.server.link import Frame, Kind, frame
from speechmtp.server.process import Process
from speechmtp.server.protocols.contract import Refused
from speechmtp.server.uploads import Failure, Part, Pulse, Upload, read_part

logger = logging.getLogger("speechmtp.server")

SILENCE = 10.0  # seconds without a sign of life after which the process is killed
STUCK = 300.0  # seconds that it may be about one part
STARTING = 120.0  # seconds that it may take to start
LEAVING = 2.0  # seconds that it may take to leave

_Said = Part | Failure | None  # None: all of it was said


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
        self._process: Process | None = None
        self._launching: asyncio.Task[Refused | None] | None = None
        self._waiting: dict[int, asyncio.Queue[_Said]] = {}
        self._numbers = 0
        self._taken = 0
        self._heard, self._pulse = False, Pulse()
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
        return None if self._process is None else self._process.pid

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
        self._stopping = self._stopped = True
        if self._launching is not None:
            await asyncio.wait([self._launching])
        process, task = self._process, self._task
        if process is not None:
            await process.leave(LEAVING)
            process.kill()
        if task is not None:
            await task

    def _tell(self, data: bytes) -> None:
        if self._process is not None:
            self._process.tell(data)

    async def _start(self) -> None:
        """Start the process unless it runs. It is started to the end even if whoever waits for it leaves."""
        if self._launching is None or self._launching.done():
            self._launching = asyncio.create_task(self._launch())
        if problem := await asyncio.shield(self._launching):
            raise problem

    async def _launch(self) -> Refused | None:
        """Start the process unless it runs; why it cannot be started."""
        if self._task is not None and self._process is None:
            await self._task
        if self._stopped:
            return Refused(503, "stopping", "the server stops; send the file again")
        if self._process is None:
            self._heard, self._pulse, self._why = False, Pulse(), ""
            try:
                self._process = await Process.start(self._command, self._take)
            except OSError as error:
                logger.error("uploads: their process cannot be started (%s)", error.strerror or error)
                return Refused(500, "transcription_failed", "uploads cannot be transcribed now; try later")
            self._task = asyncio.create_task(self._watch(self._process))
        return None

    async def _watch(self, process: Process) -> None:
        """Wait until the process is gone, and kill it when it gives no sign of life."""
        silent = False
        while not process.gone.is_set() and not silent:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await process.gone.wait()
            silent = process.silent > (SILENCE if self._heard else STARTING) or self._pulse.stuck > STUCK
        self._process = None
        code = await process.end()
        if not self._stopped:
            logger.warning("uploads: their process was lost (exit code %s)", code)
            self.on_loss()
        failure = Failure(self._why or "the process that transcribes uploads was lost; send the file again", False)
        for said in self._waiting.values():
            said.put_nowait(failure)

    def _take(self, one: Frame) -> None:
        """A frame came."""
        self._heard = True
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
