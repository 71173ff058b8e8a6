"""Which tokens of an output make each of its words."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from speechmtp.words.word import word_spans

Decode = Callable[[Sequence[int]], str]

_PARTIAL = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer makes of half a character
# Scripts written without blanks, in which every character counts as a word: Thai, Lao, Burmese, Khmer, kana, Han.
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3041, 0x30FF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
_JOINED = "\N{KATAKANA MIDDLE DOT}\N{KATAKANA-HIRAGANA PROLONGED SOUND MARK}"  # belong to the character before
_OPENING = "\N{INVERTED QUESTION MARK}\N{INVERTED EXCLAMATION MARK}"


@dataclass(frozen=True)
class WordTokens:
    """A word of an output and its tokens, `tokens[first:last]`; two words share a token that has characters of both."""

    text: str
    first: int
    last: int

    def confidence(self, logprobs: Sequence[float]) -> float | None:
        """Return the product of the probabilities of the word's tokens; None if there are none of some."""
        mine = logprobs[self.first : self.last]
        return min(1.0, math.exp(math.fsum(mine))) if len(mine) == self.last - self.first else None


def group_words(tokens: Sequence[int], decode: Decode, ends: Sequence[int] = ()) -> list[WordTokens]:
    """Return the words of an output with the tokens of each. `decode` gives the text of token ids; ids in `ends` end a
    text and are in no word.

    A word has no blanks around it. Punctuation in front joins the word after it, all other the word before. In scripts
    without blanks every character is a word. A character of several tokens belongs to all of them.
    """
    kept = [(place, token) for place, token in enumerate(tokens) if token not in ends]
    ids = [token for _, token in kept]
    text = decode(ids)
    owners = _owners(ids, decode, text)
    found = []
    for start, end in split_words(text):
        mine = [one for one in owners[start:end] if one is not None]
        if mine:
            first, last = min(first for first, _ in mine), max(last for _, last in mine)
            found.append(WordTokens(text[start:end], kept[first][0], kept[last][0] + 1))
    return found


def split_words(text: str) -> list[tuple[int, int]]:
    """Return the spans [start, end) of a text's words, as `group_words` cuts them."""
    units: list[tuple[int, int]] = []
    for word, start in _runs(text):
        units += [(start + a, start + b) for a, b in _units(word)]
    joined: list[tuple[int, int]] = []
    waiting: int | None = None  # where punctuation begins that has no word before it
    for start, end in units:
        if any(_spoken(one) for one in text[start:end]):
            joined.append((start if waiting is None else waiting, end))
            waiting = None
        elif joined and not _opens(text[start]):
            joined[-1] = joined[-1][0], end
        else:
            waiting = start if waiting is None else waiting
    if waiting is not None:  # punctuation alone, or an opening one at the end
        first, end = joined.pop() if joined else (waiting, 0), units[-1][1]
        joined.append((first[0], end))
    return joined


def _runs(text: str) -> list[tuple[str, int]]:
    """Return the runs without blanks, each with its place."""
    runs = text.split()
    return list(zip(runs, (start for start, _ in word_spans(text, runs))))


def _units(run: str) -> list[tuple[int, int]]:
    """Cut a run before and behind every character of a script without blanks; punctuation stays with what it is written
    to."""
    if run.isascii():
        return [(0, len(run))]
    cuts = [0]
    for place in range(1, len(run)):
        here, before = run[place], run[place - 1]
        after_single = any(map(_single, run[cuts[-1] : place]))
        if _joins(here):
            continue
        if _single(here):
            if any(map(_spoken, run[cuts[-1] : place])):
                cuts.append(place)
        elif after_single and (_spoken(here) or _opens(here)) and not _opens(before):
            cuts.append(place)
    return list(pairwise([*cuts, len(run)]))


def _single(character: str) -> bool:
    return ord(character) >= 0x0E00 and any(first <= ord(character) <= last for first, last in _UNSPACED)


def _joins(character: str) -> bool:
    """Whether a character is written to the one before it, whatever that is."""
    return character in _JOINED or unicodedata.category(character) in ("Mn", "Mc")


def _spoken(character: str) -> bool:
    """Whether a character is said: a letter, a digit or a symbol such as `$`, no punctuation."""
    return unicodedata.category(character)[0] in "LMNS"


def _opens(character: str) -> bool:
    return unicodedata.category(character) in ("Ps", "Pi") or character in _OPENING


def _owners(ids: Sequence[int], decode: Decode, text: str) -> list[tuple[int, int] | None]:
    """Return the first and the last of the ids that each character of `text` comes from."""
    added = _added(ids, decode)
    if "".join(piece for piece, _, _ in added) != text:  # what a token adds depends on those far before it
        added = _added(ids, decode, whole=True)
    owners = [(first, last) for piece, first, last in added for _ in piece]
    return [*owners, *[None] * len(text)][: len(text)]


def _added(ids: Sequence[int], decode: Decode, whole: bool = False) -> list[tuple[str, int, int]]:
    """Return what the ids add to the text: characters, and the first and the last of the ids that make them. Texts are
    decoded from a few ids before, or with `whole` from the first."""
    found: list[tuple[str, int, int]] = []
    anchor, begun, known = 0, 0, ""  # `known` is the text of ids[anchor:begun]
    for place in range(len(ids)):
        text = decode(ids[anchor : place + 1])
        if text.endswith(_PARTIAL) and place + 1 < len(ids) and place - begun < 4:
            continue
        found.append((text[len(known) :], begun, place))
        if not whole and text[len(known) :].strip():
            anchor = begun
            text = decode(ids[anchor : place + 1])
        begun, known = place + 1, text
    return found
