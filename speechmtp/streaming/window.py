"""The segment that is going on: its audio's place, what was decoded of it, and what was said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from speechmtp.streaming.agreement import Agreement
from speechmtp.transcripts import Segment
from speechmtp.words.segments import cut_at_pauses
from speechmtp.words.word import Word, word_spans


@dataclass
class Window:
    """Audio from sample `start` on; the last pass heard it up to sample `heard`, the one before it up to `before`.

    `activity` are the probabilities of speech of its frames, `words` the committed words, `said` their text, and `tail`
    the text behind it that was said last. A window may have several segments; the last one begins with sample
    `segment`.
    """

    start: int
    agreement: Agreement
    decode: Callable[[Sequence[int]], str] = field(repr=False)
    activity: list[float] = field(default_factory=list, repr=False)
    words: list[Word] = field(default_factory=list)
    said: str = ""
    tail: str = ""

    def __post_init__(self) -> None:
        self.before = self.heard = self.start
        self.begin(self.start)

    def begin(self, segment: int) -> None:
        """Begin a segment with a sample."""
        self.segment = segment
        self._first = len(self.words), len(self.said), len(self.activity), len(self.agreement.committed)

    @property
    def own_words(self) -> tuple[Word, ...]:
        """The committed words of the segment."""
        return tuple(self.words[self._first[0] :])

    @property
    def own_text(self) -> str:
        """The committed text of the segment."""
        return self.said[self._first[1] :].strip()

    @property
    def own_tokens(self) -> tuple[int, ...]:
        """The committed tokens of the segment."""
        return tuple(self.agreement.committed[self._first[3] :])

    def commit(self, words: Sequence[Word]) -> str:
        """Take words that were committed; return what the committed tokens add to the text."""
        self.words += words
        before, self.said = self.said, self.decode(self.agreement.committed)
        return self.said[len(before) :]

    def finish(self) -> None:
        """Give the words of the segment the punctuation that was committed behind them."""
        first = self._first[0]
        texts = [word.text for word in self.agreement.words if word.first >= self._first[3]]
        if len(texts) == len(self.words) - first:
            self.words[first:] = [replace(word, text=text) for word, text in zip(self.words[first:], texts)]

    def new_tail(self) -> str | None:
        """The text behind the committed words, if it is not what was said last."""
        whole = self.decode([*self.agreement.committed, *self.agreement.tail])
        before, self.tail = self.tail, whole[len(self.said) :]
        return None if self.tail == before else self.tail

    def doubted(self, activity_floor: float, confidence_floor: float) -> bool:
        """Whether nothing of the segment is committed, and both the mean probability of speech in it and the mean
        confidence of its words are below these."""
        _, _, frame, token = self._first
        if self.own_tokens or sum(self.activity[frame:]) >= activity_floor * len(self.activity[frame:]):
            return False
        words = [word for word in self.agreement.words if word.first >= token]
        known = [value for value in map(self.agreement.confidence, words) if value is not None]
        return bool(known) and sum(known) < confidence_floor * len(known)

    def segments(self, start: float, end: float) -> list[Segment]:
        """The segment from `start` to `end` in seconds, with its committed words; several where a pause stands behind a
        sentence."""
        words, tokens = self.own_words, self.own_tokens
        if not words:
            return []
        places = [word for word in self.agreement.words if word.first >= self._first[3]][: len(words)]
        spans = word_spans(self.own_text, [word.text for word in words])
        found, first, token, begin = list[Segment](), 0, 0, start
        for place, seconds in [*cut_at_pauses(words), (len(words) - 1, end)]:
            last = len(tokens) if place + 1 == len(words) else places[place].last - self._first[3]
            text = self.own_text[spans[first][0] : spans[place][1]]
            found.append(Segment(begin, seconds, text, tokens[token:last], words=words[first : place + 1]))
            first, token, begin = place + 1, last, seconds
        return found
