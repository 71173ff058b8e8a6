"""A websocket session: a client on one side, a recogniser on the other, a protocol between them."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from websockets.exceptions import ConnectionClosed, InvalidState

from speechmtp.server.config import Limits
from speechmtp.server.messages import Action, Audio, Close, Command, CoreEvent, End, Send
from speechmtp.server.port import PortConnection
from speechmtp.server.protocols.contract import Adapter, EndReason
from speechmtp.server.session import Session

TOO_FAST = "audio comes faster than it is transcribed; upload it to POST /v1/audio/transcriptions"
CLOSING = 2.0  # seconds that a client has to answer a close


class Watcher(Protocol):
    """What is told about a session."""

    def command(self, command: Command, seconds: float = 0.0) -> None:
        """The client's protocol gives a command; `seconds` is how much audio it has."""

    def events(self, events: Sequence[CoreEvent]) -> None:
        """The recogniser said these."""

    def ended(self, reason: str) -> None:
        """The server ends the session for this reason."""

    def closed(self, code: int, by_server: bool) -> None:
        """The connection is closed."""


class Bucket:
    """How many of something may happen: `rate` a second, at most `most` at once."""

    def __init__(self, rate: float, most: float, now: float) -> None:
        self._rate, self._most = rate, most
        self._left, self._at = most, now

    def take(self, now: float) -> float:
        """Take one; return the seconds that it comes too early."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._left / self._rate)


class Outbox:
    """Messages that wait to be sent, in order. A droppable one takes the place of one of its kind that still waits."""

    def __init__(self) -> None:
        self._waiting: deque[Send | Close] = deque()
        self.size = 0  # bytes
        self.ready = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, one: Send | Close) -> None:
        """Add a message."""
        if isinstance(one, Send):
            if one.droppable:
                self._drop(one.droppable)
            self.size += len(one.message)
        self._waiting.append(one)
        self.ready.set()

    def _drop(self, kind: str) -> None:
        for place, other in enumerate(self._waiting):
            if isinstance(other, Send) and other.droppable == kind:
                self.size -= len(other.message)
                del self._waiting[place]
                return

    def pop(self) -> Send | Close | None:
        """The next one."""
        if not self._waiting:
            self.ready.clear()
            return None
        one = self._waiting.popleft()
        if isinstance(one, Send):
            self.size -= len(one.message)
        return one


class Talk:
    """One session over a connection. `run` returns when it is over, `check` is called every second, `end` ends it."""

    def __init__(
        self, connection: PortConnection, adapter: Adapter, session: Callable[[Callable[[Sequence[CoreEvent]], None]],
        Session], limits: Limits, crowded: Callable[[], bool], watcher: Watcher,
    ) -> None:  # fmt: skip
        self.connection, self.adapter, self.limits = connection, adapter, limits
        self.session = session(self._hear)
        self.ending = False  # nothing more is asked of the client
        self._crowded, self._watcher = crowded, watcher
        self._loop = asyncio.get_running_loop()
        self._outbox, self._eased = Outbox(), asyncio.Event()
        now = self._loop.time()
        self._began, self._reading = now, True
        self._full_since: float | None = None
        self._all = Bucket(limits.messages, limits.messages, now)
        self._controls = Bucket(limits.controls, limits.control_burst, now)
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        connection.on_half_close = self._look_for_end

    async def run(self) -> None:
        """Talk until the connection is closed."""
        writer = asyncio.create_task(self._write())
        try:
            self._apply(self.adapter.start(self._loop.time()))
            self._look_for_end()
            await self._read()
        except ConnectionClosed:
            pass
        finally:
            self._stop_timer()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            code = self.connection.protocol.close_code
            self._watcher.closed(1006 if code is None else code, self._closing)

    # From the client

    async def _read(self) -> None:
        while await self._room():
            message = await self.connection.recv()
            now = self._loop.time()
            early = self._all.take(now)
            actions = self.adapter.on_client(message, now)
            if not any(isinstance(one, Audio) for one in actions) and self._controls.take(now):
                self.end("policy", "too many messages without audio; send fewer than 50 a second")
            self._apply(actions)
            self._look_for_end()
            if early:
                await asyncio.sleep(early)
        await self.connection.wait_closed()

    def _look_for_end(self) -> None:
        """Hang up on a client that sends no more and waits for nothing."""
        if self.connection.heard_out and not self._closing and not self.session.journal.ended:
            self.connection.give_up()

    async def _room(self) -> bool:
        """Wait until more audio can be taken; False if it takes too long."""
        deadline = self._loop.time() + self.limits.pause
        while self._full():
            self._reading = False
            self._eased.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._eased.wait()
            except TimeoutError:
                self.end("too_fast", TOO_FAST)
                return False
            if self.connection.protocol.close_code is not None:
                return False
        self._reading = True
        return True

    def _full(self) -> bool:
        waiting = self.session.journal.waiting
        return waiting > self.limits.waiting or (waiting > self.limits.credit and self._crowded())

    # From the recogniser

    def _hear(self, events: Sequence[CoreEvent]) -> None:
        now = self._loop.time()
        self._watcher.events(events)
        for event in events:
            self._apply(self.adapter.on_core(event, now))
        self._eased.set()

    # What is to be done

    def _apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Send | Close):
                if not self._closing:
                    self._outbox.put(action)
                self._closing = self._closing or isinstance(action, Close)
                continue
            self._watcher.command(action, len(action.samples) / action.rate if isinstance(action, Audio) else 0.0)
            self.ending = self.ending or isinstance(action, End)
            self.session.command(action)
        self._set_timer()

    def end(self, reason: EndReason, message: str) -> None:
        """End it from this side."""
        if not self._closing:
            self._watcher.ended(reason)
            self._apply(self.adapter.on_end(reason, message, self._loop.time()))

    def _set_timer(self) -> None:
        self._stop_timer()
        if self.adapter.wake is not None and not self._closing:
            self._timer = self._loop.call_at(self.adapter.wake, self._wake)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        self._apply(self.adapter.on_timer(self._loop.time()))

    # To the client

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                one = self._outbox.pop()
                if one is None:
                    await self._outbox.ready.wait()
                elif isinstance(one, Send):
                    try:
                        async with asyncio.timeout(self.limits.unread_seconds):
                            await self.connection.send(one.message)
                    except TimeoutError:
                        self.connection.transport.abort()
                else:
                    await self._close(one)
                    return

    async def _close(self, close: Close) -> None:
        """Close the connection; a client that does not answer is cut off."""
        if self.connection.half_closed:
            with contextlib.suppress(InvalidState):  # it may be gone
                self.connection.protocol.send_close(close.code, close.reason)
            self.connection.send_data()
            self.connection.transport.close()
            return
        try:
            async with asyncio.timeout(CLOSING):
                await self.connection.close(close.code, close.reason)
        except TimeoutError:
            self.connection.transport.abort()

    # Once a second

    def check(self, now: float) -> None:
        """End the session for what takes too long."""
        limits, connection, journal = self.limits, self.connection, self.session.journal
        too_much = len(self._outbox) > limits.unread_messages or self._outbox.size > limits.unread
        self._full_since = (self._full_since or now) if too_much else None
        if self._full_since is not None and now - self._full_since > limits.unread_seconds:
            connection.transport.abort()
        elif connection.fragments_since is not None and now - connection.fragments_since > limits.message_seconds:
            self.end("policy", "a message was not complete in time; send it whole")
        elif self._reading and now - connection.last_byte > limits.silent:
            self.end("idle", "nothing came for a minute; connect again")
        elif not journal.begun and not journal.received and now - self._began > limits.first_audio:
            self.end("idle", "no audio came in the first minute; connect again")
        elif now - self._began > limits.session and not self.ending:
            self.end("too_long", "the longest session is over; connect again")
