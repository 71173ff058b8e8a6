"""The front end: text to sentences of units."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

from speechmtp.g2p import assets
from speechmtp.g2p import stress as accent
from speechmtp.g2p.lexicon import Lexicon
from speechmtp.g2p.normalise import normalise
from speechmtp.g2p.sentences import sentences
from speechmtp.g2p.symbols import SYMBOLS
from speechmtp.g2p.tokens import Token, tokens
from speechmtp.g2p.traced import Traced
from speechmtp.g2p.units import Sentence, Unit, Word

LONGEST = 300  # units of a sentence
_PIECES = re.compile(r"'(?:ll|d|s|m|re|ve)\b|[A-Z]+(?![a-z])|[A-Z]?(?:[a-z]|'(?!(?:ll|d|s|m|re|ve)\b))+|'")
_TAGS = {"in": "IN", "a": "DT", "i": "PRP"}
_CLAUSE = frozenset(";:,—…")


class FrontEnd:
    """Text to sentences of units. The data files are read at the first sentence.

    Arguments:
        lexicon: words and their phones (misaki's symbols), which win over all rules
    """

    def __init__(self, lexicon: Mapping[str, str] | str | Path | None = None) -> None:
        self._own = dict(lexicon) if isinstance(lexicon, Mapping) else {}

    def sentences(self, text: str, markup: Literal["text", "ssml"] = "text") -> Iterator[Sentence]:
        """The sentences of a text, one at a time.

        Arguments:
            text: any text; what cannot be read is named in `Sentence.skipped`
            markup: "ssml" reads the text as SSML
        """
        for start, end in sentences(text):
            yield from self._read(text[start:end], Traced.of(text[start:end], start))

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon(assets.lexicon("gold"), assets.lexicon("silver"), self._own)

    def _read(self, written: str, traced: Traced) -> Iterator[Sentence]:
        said = normalise(traced)
        found = tokens(said)
        self._pronounce(found)
        offset = traced.places[0][0] if traced.places else 0
        yield from _sentences(written, offset, said, found)

    def _pronounce(self, found: list[Token]) -> None:
        """Give every word its phones, from the last to the first: some depend on what follows."""
        vowel: bool | None = None
        to_next = False
        for token in reversed(found):
            if token.kind == "mark":
                vowel = vowel if token.text in "“”()" else None
                to_next = False
                continue
            if token.kind == "fixed" and token.fixed is not None:
                token.phones = token.fixed.phones
            elif token.kind == "word":
                token.phones = self._word(token, vowel, to_next).replace("ɾ", "T").replace("ʔ", "t")
            vowel = next(
                (one in accent.VOWELS for one in token.phones if one in accent.VOWELS | accent.CONSONANTS), vowel
            )
            to_next = token.text.lower() == "to"

    def _word(self, token: Token, vowel: bool | None, to_next: bool) -> str:
        tag = _TAGS.get(token.text.lower(), token.tag)
        said = self._lexicon.say(token.text, tag, vowel, to_next)
        if said:
            return said
        return self._parts(token.text, token.tag, vowel)

    def _parts(self, text: str, tag: str, vowel: bool | None) -> str:
        """A compound from its parts, the longest listed ones from the right."""
        cuts = [match.start() for match in _PIECES.finditer(text)] + [len(text)]
        parts: list[tuple[str, str]] = []
        end = len(text)
        while end > 0:
            for start in (cut for cut in cuts if cut < end):
                piece = text[start:end].strip("-'")
                said = self._lexicon.say(piece, tag, vowel) if piece else ""
                if said is not None:
                    break
            else:
                start = max(cut for cut in cuts if cut < end)
                piece = text[start:end].strip("-'")
                said = self._unknown(piece)
            if said:
                parts.append((piece, said))
                vowel = said[0] in accent.VOWELS
            end = start
        return _compound(parts[::-1])

    def _unknown(self, word: str) -> str:
        return self._lexicon.spell(word)


def _compound(parts: list[tuple[str, str]]) -> str:
    """Phones of a word of several parts: about half of them, the lighter ones, lose their primary stress."""
    said = [phones for _, phones in parts]
    stressed = sum(accent.PRIMARY in phones for phones in said)
    if len(parts) == 2 and len(parts[0][0]) == 1:
        said[1] = accent.weaken(said[1])
    elif len(parts) > 1 and stressed > (len(parts) + 1) // 2:
        order = sorted(range(len(said)), key=lambda i: (accent.PRIMARY in said[i], accent.weight(said[i]), i))
        for i in order[: len(said) // 2]:
            said[i] = accent.weaken(said[i])
    return "".join(said)


def _sentences(written: str, offset: int, said: Traced, found: list[Token]) -> Iterator[Sentence]:
    """Sentences of at most `LONGEST` units from tokens with phones."""
    words: list[Word] = []
    units: list[Unit] = []
    skipped: dict[str, None] = {}
    for token in found:
        start, end = said.place(token.start, token.end)
        if token.kind == "skipped":
            skipped[token.text] = None
        elif token.kind == "mark":
            units.append(Unit(token.text, max(len(words) - 1, 0)))
        elif token.phones:
            if words and start < words[-1].end:  # made from the same written token
                last = words.pop()
                phones = f"{last.phones}{' ' if units[-1].symbol == ' ' else ''}{token.phones}"
                word = Word(last.text, last.start, max(end, last.end), phones)
                words.append(Word(written[word.start - offset : word.end - offset], word.start, word.end, phones))
            else:
                words.append(Word(written[start - offset : end - offset], start, end, token.phones))
            units += [Unit(one, len(words) - 1) for one in token.phones if one in SYMBOLS]
        if token.blank and units and units[-1].symbol != " ":
            units.append(Unit(" ", max(len(words) - 1, 0)))
    if units and units[-1].symbol == " ":
        units.pop()
    if not words:
        units = []
    yield Sentence(written, offset, offset + len(written), tuple(words), tuple(units), tuple(skipped))
