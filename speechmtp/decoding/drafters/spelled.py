"""Drafts from a text: the place to resume is found among its characters, and the rest is encoded into tokens anew.

One wrong letter changes several tokens, so that a place found among tokens would lose more of the text than is wrong.
"""

from speechmtp.decoding.drafters.recycle import Hypothesis, Pointers
from speechmtp.types import CtcText, TokenSpelling

NEXT = 80  # characters of a rest that are drafted at once, since it is encoded and verified anew at every mismatch


class TextRow:
    """The CTC text of one row, and where it resumes after the emitted tokens.

    Places are counted in letters, digits and spaces; case and punctuation are ignored.
    """

    count = 1

    def __init__(self, text: CtcText, spelling: TokenSpelling, eos: int) -> None:
        self._spelling, self._eos, self._known, self._last = spelling, eos, 0, ""
        self._text, self._sure = _spaced(text)
        self._kept = [i for i, letter in enumerate(self._text) if _matters(letter)]
        self.pointers = Pointers([[_folded(self._text[i]) for i in self._kept]])

    def take_in(self, emitted: list[int]) -> None:
        """Take in the new tokens of `emitted`, which is all that the row has emitted so far."""
        pieces = self._spelling.pieces
        # A trunk may have more token ids than its tokenizer.
        said = "".join(pieces[token] for token in emitted[self._known :] if token < len(pieces))
        self._known, self._last = len(emitted), (self._last + said)[-1:]
        for letter in filter(_matters, said):
            self.pointers.emit(_folded(letter))

    def rest(self, number: int, start: int, max_tokens: int | None) -> Hypothesis:
        """Up to `max_tokens` tokens of the text from place `start` on, and an end token after the last one: after the
        prompt the whole text, later whole words of its next `NEXT` characters."""
        begin = self._begin(start)
        text = self._text[begin:]
        cut = self._known > 0 and len(text) > NEXT
        if cut:
            text = text[: text.rfind(" ", 1, NEXT + 1)] if " " in text[1 : NEXT + 1] else text[:NEXT]
        tokens = self._spelling.encode(text) if text else []
        confidence = self._confidence(tokens, begin)
        if not cut:
            tokens, confidence = [*tokens, self._eos], [*confidence, 1.0]
        return Hypothesis(tokens[:max_tokens], confidence[:max_tokens])

    def _begin(self, start: int) -> int:
        """The index of the character at which place `start` resumes; if punctuation was emitted last, punctuation is
        skipped."""
        begin = 0 if start == 0 else len(self._text) if start > len(self._kept) else self._kept[start - 1] + 1
        if self._last and not _matters(self._last):
            while begin < len(self._text) and not _matters(self._text[begin]):
                begin += 1
        return begin

    def _confidence(self, tokens: list[int], begin: int) -> list[float]:
        """The confidence of each token: the lowest one among its characters."""
        found = []
        for token in tokens:
            end = begin + len(self._spelling.pieces[token])
            found.append(min(self._sure[begin:end], default=1.0))
            begin = end
        return found


def _spaced(text: CtcText) -> tuple[str, list[float]]:
    """The text as the trunk emits it, with a space before every word, and the posterior of each character."""
    letters, sure = [""], [1.0]
    for letter, confidence in zip(" " + text.text, (1.0, *(text.confidence or [1.0] * len(text.text)))):
        if letter != " " or letters[-1] != " ":
            letters.append(letter)
            sure.append(confidence)
    end = -1 if letters[-1] == " " else None
    return "".join(letters[1:end]), sure[1:end]


def _matters(letter: str) -> bool:
    return letter.isalnum() or letter == " "


def _folded(letter: str) -> int:
    """A number that is the same for small and capital letters, one per character."""
    return ord(letter.lower()[0])
