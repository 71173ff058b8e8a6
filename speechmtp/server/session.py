"""A session as the front keeps it: all that an engine would need to go on with it, if the one it has is lost."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from speechmtp.errors import ConfigError
from speechmtp.server.link import Kind, Opening, Said, frame, write_opening
from speechmtp.server.messages import (
    Audio,
    Clear,
    Cleared,
    Command,
    Configure,
    CoreEvent,
    End,
    Ended,
    Failed,
    Final,
    Flush,
    Heard,
    Settings,
)

CRASHES = 2  # engines that are lost while they decode a session, before it is given up
LOSSES = 5  # engines that are lost one after the other without listening to any more of it
NEAR = 1e-6  # seconds: less than a sample, more than sums of lengths are off


@dataclass
class _Entry:
    """Something that was told the engine, or waits to be: `start` and `end` are seconds of audio, the same but for
    samples."""

    command: Command = field(repr=False)
    start: float
    end: float
    rate: float


class Journal:
    """The commands of a session in order, from the first that the engine may need again.

    `take` adds a command, `to_send` returns the frames that may go to the engine now, `hear` takes what it says, and
    `reopen` starts anew with another engine. At most `credit` seconds of audio that are not listened to are with the
    engine. It has no socket and no clock.
    """

    def __init__(self, number: int, credit: float = 60.0) -> None:
        self.number, self._credit = number, credit
        self.received = self.heard = 0.0  # seconds of audio
        self.crashes = 0  # of engines that were decoding it
        self.losses = 0  # of engines since more of it was listened to
        self.ended = False
        self._settings, self._rate = Settings(), 16000.0  # of the first entry
        self._now, self._now_rate = self._settings, self._rate  # of what comes next
        self._keep = 0.0
        self._resume: Mapping[str, Any] | None = None
        self._entries: deque[_Entry] = deque()
        self._sent = 0  # entries
        self._opened = False
        self._flushed = self._cleared = 0  # answered: the last flush, and how many clears that are still kept

    @property
    def waiting(self) -> float:
        """Seconds of audio that were not listened to yet."""
        return self.received - self.heard

    @property
    def poisonous(self) -> bool:
        """Whether it seems to break engines."""
        return self.crashes >= CRASHES or self.losses >= LOSSES

    @property
    def begun(self) -> bool:
        """Whether there is anything for an engine to do."""
        return bool(self._entries) or self._opened

    @property
    def settings(self) -> Settings:
        """Those of what comes next."""
        return self._now

    def take(self, command: Command) -> None:
        """Add a command. ConfigError for one behind End."""
        if self.ended:
            raise ConfigError(f"session {self.number}: {type(command).__name__} behind End, expected none; drop it")
        if isinstance(command, Configure):
            if command.settings == self._now:
                return
            self._now = command.settings
            if not self._entries and not self._opened:
                self._settings = self._now
                return
        elif isinstance(command, Audio):
            if not len(command.samples):
                return
            if command.rate != self._now_rate:
                self._change_rate(command.rate)
            start = self.received
            self.received += len(command.samples) / command.rate
            self._entries.append(_Entry(command, start, self.received, command.rate))
            return
        self.ended = isinstance(command, End)
        self._entries.append(_Entry(command, self.received, self.received, self._now_rate))

    def _change_rate(self, rate: float) -> None:
        self._now_rate = rate
        if not self._entries and not self._opened:
            self._rate = rate
        else:
            self._entries.append(_Entry(Configure(self._now), self.received, self.received, rate))

    def to_send(self) -> list[bytes]:
        """Frames for the engine."""
        frames = list[bytes]()
        if not self._opened and self._entries:
            self._opened = True
            frames.append(self._opening())
        while self._sent < len(self._entries):
            entry = self._entries[self._sent]
            if isinstance(entry.command, Audio) and entry.start - self.heard > self._credit:
                break
            frames.append(self._frame(entry))
            self._sent += 1
        return frames

    def _opening(self) -> bytes:
        first = next((entry for entry in self._entries if isinstance(entry.command, Audio)), None)
        offset = self._entries[0].start if first is None else first.start
        opening = Opening(self._settings, self._rate, offset, self._resume, alone=self.crashes > 0)
        return frame(Kind.OPEN, self.number, write_opening(opening))

    def _frame(self, entry: _Entry) -> bytes:
        command = entry.command
        if isinstance(command, Audio):
            return frame(Kind.AUDIO, self.number, command.samples.astype("<i2", copy=False).tobytes())
        if isinstance(command, Flush):
            return frame(Kind.FLUSH, self.number, {"number": command.number})
        if isinstance(command, Configure):
            return frame(Kind.CONFIGURE, self.number, {"settings": asdict(command.settings), "rate": entry.rate})
        return frame(Kind.CLEAR if isinstance(command, Clear) else Kind.END, self.number)

    def hear(self, said: Said) -> tuple[CoreEvent, ...]:
        """Take what the engine says; return its events."""
        for event in said.events:
            if isinstance(event, Final) and event.flush is not None:
                self._flushed = max(self._flushed, event.flush)
            elif isinstance(event, Cleared):
                self._cleared += 1
            elif isinstance(event, Heard | Ended) and event.time > self.heard:
                self.heard, self.losses = event.time, 0
        self._keep, self._resume = said.keep, said.resume
        self._forget()
        return said.events

    def _forget(self) -> None:
        """Drop what no engine needs any more."""
        while self._sent and self._entries:
            entry = self._entries[0]
            command = entry.command
            if isinstance(command, Audio):
                done = entry.end <= self._keep + NEAR
            elif isinstance(command, Flush):
                done = self._answered(command)
            elif isinstance(command, Clear):
                done = self._cleared > 0
                self._cleared -= done
            else:
                done = isinstance(command, Configure) and entry.start <= self._keep + NEAR
            if not done:
                break
            if isinstance(command, Configure):
                self._settings, self._rate = command.settings, entry.rate
            self._entries.popleft()
            self._sent -= 1

    def _answered(self, command: Command) -> bool:
        return isinstance(command, Flush) and command.number <= self._flushed

    def reopen(self) -> None:
        """The engine is lost: all that is still needed goes to another one."""
        self.losses += 1
        # One without speech may be answered while audio before it is still needed: the next segment begins with it.
        self._entries = deque(one for one in self._entries if not self._answered(one.command))
        first = self._entries[0] if self._entries else None
        if first is not None and isinstance(first.command, Audio) and first.start < self._keep:
            gone = round((self._keep - first.start) * first.rate)
            first.command = Audio(first.command.samples[gone:], first.rate)
            first.start += gone / first.rate
        self._sent, self._opened = 0, False
        if self._entries:
            self.heard = min(self.heard, self._entries[0].start)


class Session:
    """A session with the engine that has it. `tell` sends frames to that engine, `hear` gets the events."""

    def __init__(self, number: int, credit: float, hear: Callable[[Sequence[CoreEvent]], None]) -> None:
        self.number = number
        self.journal = Journal(number, credit)
        self._hear = hear
        self._tell: Callable[[bytes], None] | None = None
        self.leave: Callable[[], None] = lambda: None  # its client is gone: free its place
        self.over = False

    def attach(self, tell: Callable[[bytes], None]) -> None:
        """An engine has it now, unless it is over."""
        if not self.over:
            self._tell = tell
            self._push()

    def detach(self) -> None:
        """Its engine is lost."""
        if self._tell is not None:
            self._tell = None
            self.journal.reopen()

    def command(self, command: Command) -> None:
        """Give a command; those behind the end are dropped."""
        if self.over or self.journal.ended:
            return
        self.journal.take(command)
        self._push()

    def said(self, said: Said) -> None:
        """Take what the engine says."""
        if self.over:
            return
        events = self.journal.hear(said)
        self.over = any(isinstance(event, Ended | Failed) for event in events)
        self._push()
        self._hear(events)

    def fail(self, code: str, message: str) -> None:
        """Give it up."""
        if not self.over:
            self.over = True
            self._hear([Failed(code, message)])

    def close(self) -> None:
        """The client is gone."""
        if self._tell is not None and self.journal.begun:
            self._tell(frame(Kind.CLOSE, self.number))
        self.over, self._tell = True, None

    def _push(self) -> None:
        if self._tell is not None:
            for data in self.journal.to_send():
                self._tell(data)
