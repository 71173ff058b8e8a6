"""The engine of sessions: many streams on one model, whose passes are decoded together, the most urgent first.

It has no clock, thread or socket: `now` is given to it, in seconds of any clock that does not run backwards. One engine
a process, and one process a core, is fastest.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from speechmtp.audio.activity import FRAME, RATE
from speechmtp.decoding.strategies import Strategy
from speechmtp.errors import ConfigError
from speechmtp.recognition import RecognitionModel
from speechmtp.streaming.checkpoint import Checkpoint
from speechmtp.streaming.config import EngineConfig, StreamConfig
from speechmtp.streaming.events import Failed, StreamEvent
from speechmtp.streaming.passes import decode_passes, strategy_of
from speechmtp.streaming.session import Pass, Session
from speechmtp.transcripts import Transcript

FIRST = 0.5  # seconds of the first audio that may have been gathered in real time
FORGIVEN = 0.2  # of a second that audio came too early, in each second


@dataclass(frozen=True)
class Handle:
    """A session of an engine: its slot, and its number among the sessions of that slot."""

    slot: int
    generation: int


@dataclass
class _Open:
    """An open session. `arrivals` are pairs of how many seconds of audio it had and when, `due` is the pass that waits,
    `due_at` when it became due, and `deadline` when it should be done. `origin` is when its audio began, had it come in
    real time. `alone` keeps its passes from others'. `behind`: it is decoded a whole segment at a time."""

    handle: Handle
    session: Session
    strategy: Strategy
    config: EngineConfig
    language: str
    task: str
    alone: bool = False
    behind: bool = False
    crowded: bool = False
    origin: float | None = None
    came: float = 0.0  # the last audio
    arrivals: deque[tuple[float, float]] = field(default_factory=deque)
    due: Pass | None = None
    due_at: float = 0.0
    deadline: float = 0.0

    def arrive(self, now: float, mark: bool = False) -> None:
        """Note that all audio of the session is there, or a `mark` behind it."""
        received = self.session.received
        if mark or not self.arrivals or received > self.arrivals[-1][0]:
            self.arrivals.append((received, now))
        if self.origin is None:
            self.origin, self.came = now - min(received, FIRST), now
        ahead = self.origin + received - now
        # What came early once is live again when the sender keeps to real time; after a gap, what comes at once is not.
        self.origin -= min(max(ahead, 0.0), FORGIVEN * (now - self.came))
        self.origin, self.came = max(self.origin, now - received - self.config.behind), now

    def pace(self) -> None:
        """Set the session's step."""
        own = self.session.config.step
        grown = max(own, self.config.crowded_step) if self.crowded else own
        self.session.step = math.inf if self.behind else grown

    def look(self) -> None:
        """Look at the audio up to the next pass, if none is due."""
        if self.due is not None:
            return
        waiting = self.session.received - self.session.position
        if waiting > self.config.behind and not self.behind:
            self.behind = True
            self.pace()
        self.due = self.session.next_pass()
        if self.due is not None:
            self._date(self.due)
        else:
            self._catch_up()

    def renew(self) -> None:
        """Take more audio into the pass that is due, which keeps its place in the queue."""
        due_at, deadline = self.due_at, self.deadline
        self.due = self.session.renew()
        if self.due is not None:
            self._date(self.due)
            self.due_at, self.deadline = min(self.due_at, due_at), min(self.deadline, deadline)

    def _catch_up(self) -> None:
        """All audio was looked at: what comes now is live again."""
        if self.arrivals:
            received, now = self.arrivals[-1]
            self.arrivals.clear()
            if self.behind:
                self.behind, self.origin = False, now - received
                self.pace()

    def _date(self, due: Pass) -> None:
        """Find when a pass became due and when it should be done."""
        place = self.session.position
        while len(self.arrivals) > 1 and self.arrivals[0][0] < place:
            self.arrivals.popleft()
        here = [now for received, now in self.arrivals if received == place]
        marked = here and due.reason in ("flush", "finish")
        arrived = here[-1] if marked else self.arrivals[0][1]
        self.due_at = max(arrived, (self.origin or 0.0) + place)
        self.deadline = self.due_at + self._allowed

    @property
    def _allowed(self) -> float:
        """Seconds that the pass which is due may take."""
        allowed = {"whole": self.config.behind, "last": self.config.prompt, "growing": self.session.step}
        return allowed[self.urgency]

    @property
    def urgency(self) -> str:
        """What kind of pass is due: the `last` of a segment, which someone waits for, a `growing` one, or a `whole`
        segment of a session that is behind."""
        if self.behind:
            return "whole"
        return "last" if self.due is not None and self.due.reason in ("endpoint", "flush", "finish") else "growing"

    @property
    def stale(self) -> bool:
        """Whether the segment goes on behind the pass that is due, and more of it is there."""
        growing = self.due is not None and self.due.reason is None
        return growing and (self.session.marked or self.session.received > self.session.position + FRAME / RATE)

    def hurried(self, now: float) -> bool:
        """Whether a flush or the end has come while the pass waited."""
        return self.session.marked and now - self.due_at > self.config.prompt / 2

    def lateness(self, now: float) -> float:
        """Seconds that the pass has waited, beyond what it may if the session is behind."""
        return 0.0 if self.due is None else max(0.0, now - (self.deadline if self.behind else self.due_at))

    def late(self, now: float, steps: float) -> bool:
        """Whether the pass has waited for more than so many steps."""
        return self.due is not None and not self.behind and now - self.due_at > steps * self.session.config.step


class SessionEngine:
    """Sessions of live recognition in a fixed number of slots. Not thread-safe.

    `open` gives a handle, by which audio, flushes and the end are given. `step` decodes up to `together` of the passes
    that are due and returns events; call it after feeding, again while any pass is `waiting`. The events of a session
    are those that it would have alone, unless passes had to wait.

    The earliest deadline comes first. A pass is due when its audio has come, or would have in real time; the last pass
    of a segment should be done `prompt` seconds later, a growing one within its step. Only passes of one kind are
    decoded together, so that an end does not wait for long windows.

    A growing pass that has waited when a flush comes is left out for the last one, and one that has waited for half a
    step takes in the audio that has come since. When a pass has waited for more than a step, the engine is `crowded`:
    the steps of all sessions grow to `crowded_step`, so that they need fewer passes, and fall back after `calm` seconds
    without such a pass. A session that is `behind` is decoded a whole segment at a time until all its audio was looked
    at. What is said stays complete, it is only said later.

    After `reset` or `close` a handle is refused with a ConfigError, and nothing is touched.
    """

    def __init__(self, model: RecognitionModel, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self.crowded = False
        self.lateness = 0.0  # seconds that the pass which has waited longest had waited at the last step
        self.passes = 0  # run so far
        self.seconds = 0.0  # of encoding and decoding so far
        self._model = model
        self._slots: list[_Open | None] = [None] * self.config.slots
        self._generations = [0] * self.config.slots
        self._late_at = 0.0  # the last time that a pass was late
        self._spent: deque[tuple[float, float]] = deque()  # when, and seconds, of the last steps
        self._failed: list[tuple[Handle, StreamEvent]] = []

    # Sessions

    def open(
        self, config: StreamConfig | None = None, language: str = "", task: str = "",
        resume: Checkpoint | None = None, alone: bool = False,
    ) -> Handle:  # fmt: skip
        """Start a session, or go on where another one was lost (`Session`); `alone` keeps its passes from being decoded
        together with others'. ConfigError if all slots are taken, or for a strategy that the model cannot run."""
        if None not in self._slots:
            raise ConfigError(f"engine: all {self.config.slots} slots are taken; close a session, or give more slots")
        return self._start(self._slots.index(None), config, language, task, resume, alone)

    def feed(self, handle: Handle, samples: np.ndarray, rate: float | None, now: float) -> None:
        """Give samples [n] at `rate` Hz (None: the model's) to a session; see `Session.feed` for what it refuses."""
        one = self._find(handle)
        one.session.feed(samples, rate)
        one.arrive(now)

    def flush(self, handle: Handle, now: float) -> int:
        """End the segment of a session here; its Final has this flush's number, which is returned."""
        one = self._find(handle)
        number = one.session.flush()
        one.arrive(now, mark=True)
        return number

    def finish(self, handle: Handle, now: float) -> None:
        """End a session's stream here. Its last event is Ended; it keeps its slot until it is closed."""
        one = self._find(handle)
        one.session.finish()
        one.arrive(now, mark=True)

    def reset(self, handle: Handle) -> Handle:
        """Start anew in the slot of a session and with its settings; what it has not said is dropped."""
        one = self._find(handle)
        return self._start(handle.slot, one.session.config, one.language, one.task, None, one.alone)

    def close(self, handle: Handle) -> None:
        """Free a session's slot; what it has not said is dropped."""
        self._find(handle)
        self._slots[handle.slot] = None

    def result(self, handle: Handle) -> Transcript:
        """The transcript of the segments of a session that have ended."""
        return self._find(handle).session.result()

    def session(self, handle: Handle) -> Session:
        """The session of a handle, to read from: its counts, its position, and its checkpoint after a step."""
        return self._find(handle).session

    def has(self, handle: Handle) -> bool:
        """Whether a session is open: it was not closed or reset, and has not failed."""
        return any(one.handle == handle for one in self._open())

    def idle(self, handle: Handle) -> bool:
        """Whether all audio of a session was looked at, after a step, and no pass waits."""
        return self._find(handle).due is None

    def _start(
        self, slot: int, config: StreamConfig | None, language: str, task: str, resume: Checkpoint | None, alone: bool
    ) -> Handle:  # fmt: skip
        session = Session(self._model, config, language, task, resume)
        strategy = strategy_of(self._model, session.config.strategy)
        self._generations[slot] += 1
        handle = Handle(slot, self._generations[slot])
        one = _Open(handle, session, strategy, self.config, language, task, alone, crowded=self.crowded)
        self._slots[slot] = one
        one.pace()
        return handle

    def _find(self, handle: Handle) -> _Open:
        """The session of a handle; ConfigError if it is closed, or was never open."""
        one = self._slots[handle.slot] if 0 <= handle.slot < len(self._slots) else None
        if one is None or one.handle != handle:
            raise ConfigError(f"engine: {handle} is not open, it was closed, reset or has failed; open another session")
        return one

    def _open(self) -> Iterator[_Open]:
        return (one for one in self._slots if one is not None)

    # Steps

    def look(self, now: float) -> float | None:
        """Look at the audio that has come; return the earliest deadline of the passes that are due, None without
        one."""
        for one in self._open():
            self._look(one)
        self._watch(now)
        return min((one.deadline for one in self._open() if one.due is not None), default=None)

    def said(self) -> list[tuple[Handle, StreamEvent]]:
        """What arose in all sessions since the last call, or the last step."""
        events, self._failed = self._failed, []
        return [*((one.handle, event) for one in self._open() for event in one.session.events()), *events]

    def step(
        self, now: float, running: Callable[[Sequence[Handle]], object] | None = None
    ) -> list[tuple[Handle, StreamEvent]]:  # fmt: skip
        """Run the most urgent of the passes that are due, and return what arose in all sessions since the last step.

        Others wait for the next step. `running` is called with the sessions whose passes are run now, before they are.
        A session whose pass raises an error ends with Failed and leaves its slot; the others go on.
        """
        self.look(now)
        taken = self._chosen()
        before = self.seconds
        if taken:
            if running is not None:
                running([one.handle for one in taken])
            self._run(taken)
        self._spend(now, self.seconds - before)
        for one in taken:
            self._look(one)
        return self.said()

    def _chosen(self) -> list[_Open]:
        """The sessions whose passes are decoded next, all of one kind."""
        due = sorted((one for one in self._open() if one.due is not None), key=lambda one: one.deadline)
        if not due or due[0].alone:
            return due[:1]
        alike = [one for one in due if one.urgency == due[0].urgency and not one.alone]
        return alike[: self.config.together]

    def _look(self, one: _Open) -> None:
        self._guard(one, one.look)

    def _guard(self, one: _Open, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception as error:  # whatever it is, the other sessions go on
            self._fail(one, error)

    def _run(self, taken: Sequence[_Open]) -> None:
        """Decode the passes together and let the sessions take the results; apart if that raises an error."""
        due = [(one.session, one.due) for one in taken if one.due is not None]
        try:
            decoded = decode_passes(self._model, [one.strategy for one in taken], due)
        except Exception as error:  # whatever it is, the other sessions go on
            if len(taken) == 1:
                self._fail(taken[0], error)
            else:
                for one in taken:
                    self._run([one])
            return
        self.passes += len(taken)
        self.seconds += max(result.seconds for _, result in decoded)  # each has the time of all
        for one, (session, due_pass), (request, result) in zip(taken, due, decoded):
            self.seconds += request.listen_seconds
            one.due = None
            try:
                session.take(due_pass, request, result)
            except Exception as error:  # whatever it is, the other sessions go on
                self._fail(one, error)

    def _fail(self, one: _Open, error: Exception) -> None:
        """End a session, after what it has said."""
        if self._slots[one.handle.slot] is one:
            self._slots[one.handle.slot] = None
            said = [*one.session.events(), Failed(error, one.session.position)]
            self._failed += [(one.handle, event) for event in said]

    # Load

    def _watch(self, now: float) -> None:
        """Become crowded, or end it, and renew what has waited too long."""
        due = [one for one in self._open() if one.due is not None]
        self.lateness = max((one.lateness(now) for one in due), default=0.0)
        if any(one.late(now, 1.0) for one in due):
            self.crowded, self._late_at = True, now
        elif self.crowded and now - self._late_at >= self.config.calm:
            self.crowded = False
        for one in self._open():
            one.crowded = self.crowded
            one.pace()
        for one in due:
            if one.stale and (one.late(now, 0.5) or one.hurried(now)):
                self._guard(one, one.renew)

    def _spend(self, now: float, seconds: float) -> None:
        """Remember what the last `calm` seconds took."""
        self._spent.append((now, seconds))
        while self._spent[0][0] < now - self.config.calm:
            self._spent.popleft()

    @property
    def load(self) -> float:
        """Seconds of encoding and decoding for each second of the last `calm` ones."""
        return sum(seconds for _, seconds in self._spent) / self.config.calm

    @property
    def sessions(self) -> int:
        """How many sessions are open."""
        return sum(1 for _ in self._open())

    @property
    def waiting(self) -> int:
        """How many passes are known to be due after the last step."""
        return sum(one.due is not None for one in self._open())
