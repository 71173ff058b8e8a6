"""Which words of growing windows stay: those on which passes in a row agree (LocalAgreement, arXiv 2307.14743)."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from speechmtp.words.group import WordTokens, group_words


@dataclass(frozen=True)
class _Seen:
    """A word of the last pass that is not committed, compared without case and punctuation around it, and how many
    passes in a row had it."""

    word: WordTokens
    bare: str
    passes: int


def bare(text: str) -> str:
    """A word without case and without punctuation around it; the whole word if it is nothing else."""
    kept = text.casefold()
    while kept and unicodedata.category(kept[-1])[0] == "P":
        kept = kept[:-1]
    while kept and unicodedata.category(kept[0])[0] == "P":
        kept = kept[1:]
    return kept or text


class Agreement:
    """The tokens of one window: those that are committed, and those of the last pass behind them, the tail.

    A word is committed when `passes` passes in a row had it at its place, or `patience` more if its confidence is
    below `sure`, and all words before it are committed. Case and punctuation may change until then, but the last word
    of a pass must be written as in the pass before. `decode` gives the text of token ids.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], ends: Sequence[int], passes: int = 2, sure: float = 0.0,
        patience: int = 1,
    ) -> None:  # fmt: skip
        self._decode, self._ends = decode, ends
        self._passes, self._sure, self._patience = passes, sure, patience
        self.committed, self.tail = list[int](), list[int]()
        self.logprobs = list[float]()  # of both
        self.words: list[WordTokens] = []  # of both
        self._seen: list[_Seen] = []

    def take(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Take in the tokens that a pass emitted behind the committed ones, and their log probabilities."""
        kept, known = [token for token in tokens if token not in self._ends], len(self.committed)
        self.logprobs = [*self.logprobs[:known], *logprobs[: len(kept)]]
        self.tail = kept
        self.words = group_words([*self.committed, *kept], self._decode)
        self._seen = self._compared([word for word in self.words if word.first >= known])

    def commit(self, final: bool = False) -> list[WordTokens]:
        """Commit the words on which passes agree, all of them if `final`; return them. Their places are those in
        `committed`. Punctuation behind the last word of a pass is not committed with it: it may be invented there, and
        what stands behind a full stop begins anew."""
        count = len(self._seen) if final else self._agreed()
        words = [one.word for one in self._seen[:count]]
        size = len(self.tail) if final else words[-1].last - len(self.committed) if words else 0
        if words and not final and count == len(self._seen):
            closing = self._closing(size)
            size -= closing
            written = sum(len(self._decode([token]).strip()) for token in self.tail[size : size + closing])
            last = words[-1]
            words[-1] = WordTokens(last.text[: len(last.text) - written], last.first, last.last - closing)
        self.committed, self.tail = [*self.committed, *self.tail[:size]], self.tail[size:]
        self._seen = self._seen[count:]
        return words

    def _closing(self, size: int) -> int:
        """How many of the last of `size` tokens of the tail are punctuation."""
        count = 0
        while count < size - 1 and self._punctuation(self.tail[size - 1 - count]):
            count += 1
        return count

    def _punctuation(self, token: int) -> bool:
        text = self._decode([token]).strip()
        return bool(text) and all(unicodedata.category(one)[0] == "P" for one in text)

    @property
    def counts(self) -> list[int]:
        """For each word of the tail how many passes in a row had it."""
        return [one.passes for one in self._seen]

    def go_on(
        self, committed: Sequence[int], tail: Sequence[int], logprobs: Sequence[float], counts: Sequence[int]
    ) -> None:
        """Be as another one was that had these."""
        self.committed = list(committed)
        self.logprobs = list(logprobs[: len(committed)])
        self.take(tail, logprobs[len(committed) :])
        self._seen = [replace(one, passes=count) for one, count in zip(self._seen, counts)]

    def confidence(self, word: WordTokens) -> float | None:
        """The product of the probabilities of a word's tokens."""
        return word.confidence(self.logprobs)

    def _compared(self, words: list[WordTokens]) -> list[_Seen]:
        """The words with how many passes in a row had each."""
        seen, same = [], True
        for place, word in enumerate(words):
            own, before = bare(word.text), self._seen[place] if place < len(self._seen) else None
            last = place == len(words) - 1
            same = same and before is not None and before.bare == own and (not last or before.word.text == word.text)
            seen.append(_Seen(word, own, before.passes + 1 if same and before is not None else 1))
        return seen

    def _agreed(self) -> int:
        """The number of words that can be committed."""
        for count, one in enumerate(self._seen):
            confidence = self.confidence(one.word)
            doubted = confidence is not None and confidence < self._sure
            if one.passes < self._passes + doubted * self._patience:
                return count
        return len(self._seen)
