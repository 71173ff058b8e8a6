"""Items of OpenAI Realtime: stretches of a session's audio, each of which is committed and transcribed once."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from speechmtp.server.messages import Final
from speechmtp.words.word import Word, word_spans


@dataclass
class Item:
    """Audio from `start` on, in seconds of the session, and what was said of it so far.

    `end` is where it was committed, by the client with the flush `flush`, or by silence (None). `began` is where its
    speech was said to have started. `text` is that of all its deltas, and `tail` what was shown behind it.
    """

    id: str
    start: float
    end: float | None = None
    flush: int | None = None
    began: float | None = None
    stopped: bool = False
    announced: bool = False  # committed, as the client knows
    text: str = ""
    tail: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, text: str, words: Sequence[Word]) -> tuple[str, list[dict[str, Any]]]:
        """Take more text, with the words in it; return the delta, which may be empty, and the entries of its words."""
        delta = text if self.text else text.lstrip()
        entries = logprobs_of(delta, words) if delta else []
        self.text += delta
        self.logprobs += entries
        return delta, entries

    @property
    def known(self) -> bool:
        """Whether the client knows of it."""
        return self.announced or bool(self.text) or self.began is not None

    @property
    def seconds(self) -> float:
        """Of its audio that was transcribed."""
        start = self.start if self.began is None else self.began
        return round(max(0.0, (start if self.end is None else self.end) - start), 3)


@dataclass
class Clearing:
    """In the place of an item whose audio the client took back."""


class Queue:
    """What the recogniser has yet to answer, in order, and the item that the client speaks into."""

    def __init__(self) -> None:
        self.waiting: deque[Item | Clearing] = deque()
        self.open: Item | None = None
        self.covered = 0.0  # seconds of audio that belong to items before the open one

    @property
    def head(self) -> Item | Clearing | None:
        """What events of the recogniser belong to; None if nothing was sent."""
        return self.waiting[0] if self.waiting else self.open

    def commit(self, at: float, flush: int | None) -> Item:
        """The open item ends at `at` seconds, and waits for its answer."""
        item = self.open
        assert item is not None
        item.end, item.flush = at, flush
        self.waiting.append(item)
        self.open, self.covered = None, at
        return item

    def clear(self, at: float) -> None:
        """The open item's audio up to `at` seconds is taken back."""
        self.waiting.append(Clearing())
        self.open, self.covered = None, at

    def answered(self, flush: int) -> list[Item | Clearing]:
        """Take out everything up to the item of a flush; nothing if none has this number."""
        numbers = [one.flush for one in self.waiting if isinstance(one, Item)]
        found = list[Item | Clearing]()
        while flush in numbers and self.waiting:
            one = self.waiting.popleft()
            found.append(one)
            if isinstance(one, Item) and one.flush == flush:
                break
        return found


def milliseconds(seconds: float | None) -> int | None:
    """Whole milliseconds; None for an unknown time."""
    return None if seconds is None else round(seconds * 1000)


def segment_of(event: Final, times: bool) -> dict[str, Any]:
    """A segment's text, span and words, and when each word was said if `times` asks for it."""
    words = []
    for word in event.words:
        start, end = (word.start, word.end) if times else (None, None)
        confidence = None if word.confidence is None else round(word.confidence, 4)
        span = {"start_ms": milliseconds(start), "end_ms": milliseconds(end)}
        words.append({"text": word.text, **span, "confidence": confidence})
    span = {"start_ms": milliseconds(event.start), "end_ms": milliseconds(event.end)}
    return {"text": event.text, **span, "words": words}


def logprobs_of(text: str, words: Sequence[Word]) -> list[dict[str, Any]]:
    """An entry for each word whose confidence is known: its text with the space before it, and the last one's with
    what is behind it."""
    try:
        spans = word_spans(text, [word.text for word in words])
    except ValueError:  # words that are written otherwise in the text
        spans, text = [], "".join(f" {word.text}" for word in words)
        spans = word_spans(text, [word.text for word in words])
    edges = [0, *(end for _, end in spans[:-1]), len(text)]
    entries = []
    for word, start, end in zip(words, edges, edges[1:]):
        if word.confidence is not None:
            token = text[start:end]
            logprob = round(math.log(max(word.confidence, 1e-9)), 4)
            entries.append({"token": token, "logprob": min(0.0, logprob), "bytes": list(token.encode())})
    return entries
