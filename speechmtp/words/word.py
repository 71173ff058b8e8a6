"""A word of a transcript: when it was said, and how sure the recogniser was."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A word from `start` to `end` in seconds, with the punctuation that is written to it. `confidence` is in [0, 1].
    Each of the three is None where it is not known."""

    text: str
    start: float | None = None
    end: float | None = None
    confidence: float | None = None

    def moved(self, seconds: float) -> "Word":
        """Return the word that many seconds later."""
        if self.start is None or self.end is None:
            return self
        return Word(self.text, self.start + seconds, self.end + seconds, self.confidence)

    def not_before(self, time: float | None) -> "Word":
        """Return the word with both its times moved to `time` where they are before it."""
        if self.start is None or self.end is None or time is None or self.start >= time:
            return self
        return Word(self.text, time, max(self.end, time), self.confidence)


def word_spans(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Return the span [start, end) of characters of each of the words, which follow each other in `text`; ValueError
    for a word that does not."""
    found, at = list[tuple[int, int]](), 0
    for word in words:
        start = text.index(word, at)
        at = start + len(word)
        found.append((start, at))
    return found
