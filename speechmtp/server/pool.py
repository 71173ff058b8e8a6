"""The engines: processes that are started, watched, killed and started again, and the sessions that each has."""

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from speechmtp.errors import ConfigError, DataError
from speechmtp.server.admission import Room, SpeechShare
from speechmtp.server.config import ServerConfig
from speechmtp.server.link import BEAT, Frame, Kind, Load, Readiness, read_said
from speechmtp.server.messages import CoreEvent, SpeechStarted, SpeechStopped
from speechmtp.server.messages import Heard as HeardEvent
from speechmtp.server.process import Process
from speechmtp.server.session import Session

logger = logging.getLogger("speechmtp.server")

LEAVING = 2.0  # seconds that an engine may take to leave
SILENCE = 3.0  # seconds without a sign of life after which an engine is killed
STUCK = 30.0  # seconds that it may be about one thing
STARTING = 120.0  # seconds that it may take to start
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0  # seconds before an engine is started again
STEADY = 10.0  # seconds that it must have run for that wait to be short again
LOST = 10.0  # seconds without an engine after which its sessions are given up


class Engine:
    """One engine process and its sessions. It is started again whenever it is lost, until it is stopped. `restarted` is
    told why; `other` finds another engine for a session meanwhile, if there is one."""

    def __init__(
        self, index: int, command: Sequence[str], restarted: Callable[[str], None],
        other: Callable[["Engine"], "Engine | None"] = lambda engine: None,
    ) -> None:  # fmt: skip
        self.index = index
        self.readiness: Readiness | None = None  # while it is up
        self.load = Load()
        self.sessions: dict[int, Session] = {}
        self.restarts = 0
        self.failure = ""  # why it cannot be started at all
        self.known: Readiness | None = None  # what an engine like it said when it was ready
        self._other = other
        self._shares: dict[int, SpeechShare] = {}
        self._speaking: set[int] = set()
        self._command, self._restarted = command, restarted
        self._process: Process | None = None
        self._running: list[int] = []
        self._up = asyncio.Event()
        self._stopping = self._stuck = False
        self._task: asyncio.Task[None] | None = None

    # Life

    async def start(self) -> None:
        """Start it and wait until it is up. ConfigError if it says that it cannot be."""
        self._task = asyncio.create_task(self._live())
        while not self._up.is_set():
            if self._task.done() or self.failure:
                raise ConfigError(self.failure or f"engine {self.index}: cannot be started; see its errors above")
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Let it leave, and end it if it does not."""
        self._stopping = True
        if self._process is not None:
            await self._process.leave(LEAVING)
            self._process.kill()
        if self._task is not None:
            with contextlib.suppress(Exception):
                await self._task

    @property
    def pid(self) -> int | None:
        """Its process."""
        return None if self._process is None else self._process.pid

    async def _live(self) -> None:
        """Start the process, watch it, and start it again. One that cannot be started at all is a failure."""
        wait, lost_at = FIRST_WAIT, time.monotonic()
        while not self._stopping and not self.failure:
            began = time.monotonic()
            came_up = await self._run_once()
            if came_up:
                lost_at = time.monotonic()
                wait = FIRST_WAIT if lost_at - began > STEADY else wait
            if self._stopping or self.failure:
                break
            self.restarts += 1
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
            if time.monotonic() - lost_at > LOST:
                self._give_up("the recogniser could not be started again")
        self._give_up("the server stops")

    async def _run_once(self) -> bool:
        """Run a process until it is gone; whether it came up."""
        self._process = process = await Process.start([*self._command, *self._known], self._take)
        watching = asyncio.create_task(self._watch(process))
        try:
            await process.gone.wait()
        finally:
            watching.cancel()
            code = await process.end()
            self._process = None
        came_up, self.readiness = self.readiness is not None, None
        self._up.clear()
        if not self._stopping and came_up:
            logger.warning("engine %d: lost (exit code %s), started again", self.index, code)
        self._lose()
        return came_up

    @property
    def _known(self) -> Sequence[str]:
        """What need not be measured again."""
        return () if self.known is None else ("--known", json.dumps(asdict(self.known)))

    async def _watch(self, process: Process) -> None:
        """Kill the process when it gives no sign of life, or does not come round."""
        while True:
            await asyncio.sleep(BEAT)
            seconds = max(process.silent, self.load.stuck)
            if process.silent > (SILENCE if self.readiness is not None else STARTING) or self.load.stuck > STUCK:
                logger.warning("engine %d: no sign of life for %.1f s, killed", self.index, seconds)
                self._stuck = True
                process.kill()
                return

    # Frames

    def _take(self, one: Frame) -> None:
        if one.kind is Kind.EVENTS:
            self._hear(one)
        elif one.kind is Kind.BEAT:
            self.load = Load(**one.json())
        elif one.kind is Kind.RUNNING:
            self._running = list(one.json()["sessions"])
        elif one.kind is Kind.READY:
            self.readiness = self.known = Readiness(**one.json())
            self._up.set()
            for session in list(self.sessions.values()):
                session.attach(self._tell)
        elif one.kind is Kind.FATAL:
            told = one.json()
            self.failure = str(told["message"]) if told.get("user") else ""

    def _hear(self, one: Frame) -> None:
        session = self.sessions.get(one.session)
        if session is None:
            return
        said = read_said(one.json())
        self._note(one.session, said.events)
        session.said(said)

    def _note(self, number: int, events: Sequence[CoreEvent]) -> None:
        """Note how much of a session is speech."""
        share = self._shares[number]
        for event in events:
            if isinstance(event, SpeechStarted):
                self._speaking.add(number)
            elif isinstance(event, SpeechStopped):
                self._speaking.discard(number)
            if isinstance(event, SpeechStarted | SpeechStopped | HeardEvent):
                share.move(event.time, number in self._speaking)

    def _tell(self, data: bytes) -> None:
        if self._process is not None:
            self._process.tell(data)

    # Sessions

    def add(self, session: Session) -> None:
        """Take a session."""
        session.leave = lambda: self.remove(session)
        self.sessions[session.number] = session
        self._shares[session.number] = SpeechShare()
        if self.readiness is not None:
            session.attach(self._tell)

    def remove(self, session: Session) -> None:
        """Let a session go, whose client is gone."""
        if session.number in self.sessions:
            session.close()
            self._let_go(session)

    def _let_go(self, session: Session) -> None:
        del self.sessions[session.number], self._shares[session.number]
        self._speaking.discard(session.number)

    def _lose(self) -> None:
        """The process is gone. Sessions that it was decoding wait for the next one, but for those that have broken too
        many; the others go on elsewhere."""
        if not self._stopping:
            self._restarted("stuck" if self._stuck else "crash")
        self._stuck = False
        suspects, self._running, self.load = set(self._running), [], Load()
        for session in list(self.sessions.values()):
            session.journal.crashes += session.number in suspects
            session.detach()
            if session.journal.poisonous:
                session.fail("poisoned", "this audio cannot be transcribed; send other audio")
            elif session.number not in suspects and (other := self._other(self)) is not None:
                self._let_go(session)
                other.add(session)

    def _give_up(self, why: str) -> None:
        for session in list(self.sessions.values()):
            session.fail("engine_lost", f"{why}; connect again")

    @property
    def room(self) -> Room:
        """What admission looks at."""
        return Room(self.readiness, self.load, [share.value for share in self._shares.values()])


class Pool:
    """All engines. `opened` sessions get numbers that are never used again."""

    def __init__(self, config: ServerConfig, restarted: Callable[[str], None] = lambda reason: None) -> None:
        command = list(config.engine) or [sys.executable, "-m", "speechmtp.server.engine", "--device", config.device]
        for name, model in config.models:
            command += ["--model", f"{name}={model}"]
        self.engines = [Engine(index, command, restarted, self._other) for index in range(config.workers)]
        self._credit = config.limits.credit
        self._numbers = 0

    async def start(self) -> None:
        """Start all engines, the first one alone, so that a model that cannot be loaded is said once and what it
        compiles is compiled once. ConfigError if one cannot be started."""
        first, *others = self.engines
        await first.start()
        for engine in others:
            engine.known = first.known
        await asyncio.gather(*(engine.start() for engine in others))

    def _other(self, lost: Engine) -> Engine | None:
        """The engine that is up with the fewest sessions."""
        up = [engine for engine in self.engines if engine is not lost and engine.readiness is not None]
        return min(up, key=lambda engine: len(engine.sessions), default=None)

    async def stop(self) -> None:
        """Stop all engines."""
        await asyncio.gather(*(engine.stop() for engine in self.engines), return_exceptions=True)

    def open(self, engine: Engine, hear: Callable[[Sequence[CoreEvent]], None]) -> Session:
        """A new session of an engine; `hear` gets its events."""
        self._numbers += 1
        session = Session(self._numbers, self._credit, hear)
        engine.add(session)
        return session

    @property
    def readiness(self) -> Readiness:
        """That of the first engine that is up. DataError if there is none."""
        found = next((engine.readiness for engine in self.engines if engine.readiness is not None), None)
        if found is None:
            raise DataError("engines: none is up, expected one; try again in a few seconds")
        return found
