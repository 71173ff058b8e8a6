"""A language in which audio says what it is: word k is a quarter of a second of the level k / 32. A model that hears it
needs half of a word to know it, and mishears shorter ends."""

import math
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from speechmtp.audio.activity import FRAME
from speechmtp.audio.endpoint import ActivityConfig
from speechmtp.streaming.checkpoint import Checkpoint
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.events import StreamEvent
from speechmtp.streaming.session import Pass, Session
from speechmtp.types import Result, TokenRules, Trace

PLAIN = StreamConfig(
    sure=0.0, shortest=10.0, words=False, activity=ActivityConfig(min_silence_ms=500, speech_pad_ms=300)
)
RATE, WORD, COUNT = 16000, 4000, 27
END, WRONG = 30, 29


def word(k: int) -> np.ndarray:
    """The audio of word k from 1 to `COUNT`, and a short gap behind it."""
    return np.concatenate([np.full(WORD, k / 32, np.float32), np.zeros(FRAME, np.float32)])


def silence(seconds: float) -> np.ndarray:
    """Samples without speech."""
    return np.zeros(round(seconds * RATE), np.float32)


def text_of(ids: Sequence[int]) -> str:
    """Words are w1, w2, .."""
    return " ".join("what" if i == WRONG else f"w{i}" for i in ids if i != END)


def heard(samples: np.ndarray) -> list[int]:
    """The words in samples; a piece at the end that is too short for one is misheard."""
    found, start = [], 0
    levels = np.rint(samples * 32).astype(int)
    edges = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), len(levels)]
    for start, end in pairwise(edges):
        level, enough = int(levels[start]) if end > start else 0, end - start >= WORD // 2
        if level and (enough or end == len(levels)):
            found.append(level if enough else WRONG)
    return found


class Activity:
    """Stands in for the network: the share of samples that are no silence."""

    def __init__(self, loudness: float = 1.0) -> None:
        self._rest, self._loudness = np.zeros(0, np.float32), loudness

    def push(self, samples: np.ndarray) -> list[float]:
        """Probabilities of the frames that samples complete."""
        samples = np.concatenate([self._rest, samples])
        frames = len(samples) // FRAME
        self._rest = samples[frames * FRAME :]
        return [
            self._loudness * float(np.mean(samples[i * FRAME : (i + 1) * FRAME] != 0)) for i in range(frames)
        ]  # fmt: skip


class Listener:
    """A session, and a model that answers its passes; `passes` are those that it answered."""

    def __init__(
        self, config: StreamConfig | None = None, confidence: float = 0.9, loudness: float = 1.0, longest: float = 30.0,
        resume: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        speech = SimpleNamespace(decode=text_of, rules=TokenRules((END,)), shortest=500)
        model: Any = SimpleNamespace(rate=RATE, longest=longest, bundle=SimpleNamespace(model=speech))
        self.session = Session(model, config or PLAIN, resume=resume)
        self.session._activity = Activity(loudness)  # type: ignore[assignment]
        self.passes: list[Pass] = []
        self.events: list[StreamEvent] = []
        self._confidence = confidence

    def feed(self, samples: np.ndarray) -> list[StreamEvent]:
        """Feed samples and answer all passes."""
        self.session.feed(samples)
        return self.answer()

    def flush(self) -> list[StreamEvent]:
        """Flush and answer all passes."""
        self.session.flush()
        return self.answer()

    def finish(self) -> list[StreamEvent]:
        """Finish and answer all passes."""
        self.session.finish()
        return self.answer()

    def answer(self) -> list[StreamEvent]:
        """Answer what is due; the new events."""
        while (due := self.session.next_pass()) is not None:
            self.passes.append(due)
            tokens = [*heard(due.samples)[len(due.prefix) :], END]
            logprobs = [math.log(self._confidence)] * len(tokens)
            trace = Trace(calls=1, emitted=len(tokens), finished=True, logprobs=logprobs)
            self.session.take(due, None, Result(text_of(tokens), tuple(tokens), trace))
        new = self.session.events()
        self.events += new
        return new
