"""The segment that is going on: its audio's place, what was decoded of it, and what was said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from speechmtp.streaming.agreement import Agreement
from speechmtp.streaming.events import Reason
from speechmtp.transcripts import Segment
from speechmtp.words.segments import cut_at_pauses
from speechmtp.words.word import Word, word_spans


@dataclass(frozen=True)
class Pass:
    """A window to decode: samples [n] from sample `start` to `end` of the stream, the tokens that its output begins
    with, and those that the pass before emitted behind them. `reason` is set if the segment ends with it; the next one
    begins with sample `after` at the earliest."""

    samples: np.ndarray = field(repr=False)
    start: int
    end: int
    prefix: tuple[int, ...]
    previous: tuple[int, ...]
    after: int
    reason: Reason | None = None
    flush: int | None = None


@dataclass
class Window:
    """Audio from sample `start` on; the last pass heard it up to sample `heard`, the one before it up to `before`.

    `activity` are the probabilities of speech of its frames, `words` the committed words, `said` their text, and `tail`
    the text behind it that was said last. It begins `pause` frames behind the last one of speech, or that many before
    the first one if below 0. `first` is the frame of the stream whose activity is the first.
    """

    start: int
    agreement: Agreement
    decode: Callable[[Sequence[int]], str] = field(repr=False)
    pause: int = 0
    first: int = 0
    activity: list[float] = field(default_factory=list, repr=False)
    words: list[Word] = field(default_factory=list)
    said: str = ""
    tail: str = ""

    def __post_init__(self) -> None:
        self.before = self.heard = self.start

    def commit(self, words: Sequence[Word]) -> str:
        """Take words that were committed; return what the committed tokens add to the text."""
        self.words += words
        before, self.said = self.said, self.decode(self.agreement.committed)
        return self.said[len(before) :]

    def finish(self) -> None:
        """Give the words the punctuation that was committed behind them."""
        texts = [word.text for word in self.agreement.words]
        if len(texts) == len(self.words):
            self.words = [replace(word, text=text) for word, text in zip(self.words, texts)]

    def new_tail(self) -> str | None:
        """The text behind the committed words, if it is not what was said last."""
        whole = self.decode([*self.agreement.committed, *self.agreement.tail])
        before, self.tail = self.tail, whole[len(self.said) :]
        return None if self.tail == before else self.tail

    def doubted(self, activity_floor: float, confidence_floor: float) -> bool:
        """Whether nothing is committed, and both the mean probability of speech and the mean confidence of the words
        are below these."""
        if self.agreement.committed or sum(self.activity) >= activity_floor * len(self.activity):
            return False
        known = [value for value in map(self.agreement.confidence, self.agreement.words) if value is not None]
        return bool(known) and sum(known) < confidence_floor * len(known)

    def segments(self, start: float, end: float) -> list[Segment]:
        """The segment from `start` to `end` in seconds, with its committed words; several where a pause stands behind a
        sentence."""
        words, tokens, text = tuple(self.words), tuple(self.agreement.committed), self.said.strip()
        if not words:
            return []
        spans = word_spans(text, [word.text for word in words])
        found, first, token, begin = list[Segment](), 0, 0, start
        for place, seconds in [*cut_at_pauses(words), (len(words) - 1, end)]:
            last = len(tokens) if place + 1 == len(words) else self.agreement.words[place].last
            part = text[spans[first][0] : spans[place][1]]
            found.append(Segment(begin, seconds, part, tokens[token:last], words=words[first : place + 1]))
            first, token, begin = place + 1, last, seconds
        return found
