"""Stands in for a recogniser that is late: it takes commands in order, when it is told to, and says numbered words."""

from collections import deque
from collections.abc import Iterator

from speechmtp.server.messages import (
    Action,
    Audio,
    Clear,
    Cleared,
    Committed,
    Configure,
    CoreEvent,
    End,
    Ended,
    Final,
    Flush,
    Heard,
    SpeechStarted,
    SpeechStopped,
    Tail,
)
from speechmtp.streaming.events import Reason
from speechmtp.words.word import Word

SILENCE, PAUSE = 0, 3  # values of a first sample: silence ends speech; a pause ends a segment; others are words


class SlowRecogniser:
    """Each piece of audio is a word, whose number counts pieces, or silence if its samples are 0. A word is said with
    the piece after it."""

    def __init__(self) -> None:
        self.waiting: deque[Action] = deque()
        self.said: list[int] = []  # words that were committed
        self.ended = False
        self._pieces, self._time, self._start = 0, 0.0, 0.0
        self._speaking = False
        self._pending: list[int] = []  # words that are not said yet
        self._segment: list[int] = []
        self._spoken = False

    def take(self, command: Action) -> None:
        """A command came."""
        assert not self.ended
        self.ended = isinstance(command, End)
        self.waiting.append(command)

    def step(self) -> Iterator[CoreEvent]:
        """Do the next command."""
        command = self.waiting.popleft() if self.waiting else None
        if isinstance(command, Audio) and len(command.samples):
            yield from self._hear(int(command.samples[0]), len(command.samples) / command.rate)
        elif isinstance(command, Flush):
            yield from self._commit(0)
            yield from self._end("flush", command.number)
        elif isinstance(command, Clear):
            self._pending, self._segment, self._start = [], [], self._time
            yield Cleared(self._time)
        elif isinstance(command, End):
            yield from self._commit(0)
            if self._segment or self._speaking:
                yield from self._end("finish")
            yield Ended(self._time)
        else:
            assert command is None or isinstance(command, Configure | Audio)

    def _hear(self, first: int, seconds: float) -> Iterator[CoreEvent]:
        self._pieces += 1
        self._time += seconds
        if first == SILENCE:
            if self._speaking:
                self._speaking = False
                yield SpeechStopped(self._time - seconds, self._time)
                yield from self._commit(0)
                yield from self._end("endpoint")
        else:
            if not self._speaking:
                self._speaking = True
                yield SpeechStarted(self._time - seconds, self._time)
            self._pending.append(self._pieces)
            yield from self._commit(1)
            if first == PAUSE:
                yield from self._end("pause")
            else:
                yield Tail("".join(f" w{k}" for k in self._pending), self._time)
        yield Heard(self._time)

    def _commit(self, left: int) -> Iterator[CoreEvent]:
        """Say all words but the last ones."""
        ready = self._pending[: len(self._pending) - left]
        self._pending = self._pending[len(ready) :]
        if ready:
            text = "".join(f" w{k}" for k in ready)
            self._segment += ready
            self.said += ready
            text = text if self._spoken else text[1:]
            self._spoken = True
            yield Committed(text, self._words(ready), self._time)

    def _words(self, numbers: list[int]) -> tuple[Word, ...]:
        return tuple(Word(f"w{k}", self._time, self._time, 0.5) for k in numbers)

    def _end(self, reason: Reason, flush: int | None = None) -> Iterator[CoreEvent]:
        if reason == "pause":
            yield from self._commit(0)
        text, words = " ".join(f"w{k}" for k in self._segment), self._words(self._segment)
        yield Final(text, words, self._start, self._time, reason, self._time, flush)
        self._segment, self._start = [], self._time
