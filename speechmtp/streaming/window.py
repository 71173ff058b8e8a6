"""The segment that is going on: its audio's place, what was decoded of it, and what was said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from speechmtp.streaming.agreement import Agreement
from speechmtp.words.word import Word


@dataclass
class Window:
    """Audio from sample `start` on; the last pass heard it up to sample `heard`, the one before it up to `before`.

    `activity` are the probabilities of speech of its frames, `words` the committed words, `said` their text, and `tail`
    the text behind it that was said last. `logprobs` are those of the committed tokens.
    """

    start: int
    heard: int
    before: int
    agreement: Agreement
    decode: Callable[[Sequence[int]], str] = field(repr=False)
    activity: list[float] = field(default_factory=list, repr=False)
    words: list[Word] = field(default_factory=list)
    said: str = ""
    tail: str = ""

    def commit(self, words: Sequence[Word]) -> str:
        """Take words that were committed; return what the committed tokens add to the text."""
        self.words += words
        before, self.said = self.said, self.decode(self.agreement.committed)
        return self.said[len(before) :]

    def new_tail(self) -> str | None:
        """The text behind the committed words, if it is not what was said last."""
        whole = self.decode([*self.agreement.committed, *self.agreement.tail])
        before, self.tail = self.tail, whole[len(self.said) :]
        return None if self.tail == before else self.tail

    def doubted(self, activity_floor: float, confidence_floor: float) -> bool:
        """Whether both the mean probability of speech and the mean confidence of all words of the last pass are below
        these."""
        if not self.activity or sum(self.activity) >= activity_floor * len(self.activity):
            return False
        known = [value for value in map(self.agreement.confidence, self.agreement.words) if value is not None]
        return bool(known) and sum(known) < confidence_floor * len(known)
