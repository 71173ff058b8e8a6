"""Phones for the words of a sentence, each in its place."""

import re
from collections.abc import Mapping

from speechmtp.g2p import assets
from speechmtp.g2p import stress as accent
from speechmtp.g2p.lexicon import Lexicon, with_s
from speechmtp.g2p.tokens import Token

_SPOKEN = {
    "an'": "ən",
    "o'": "ə",
    "th'": "ðə",
    "t'": "tə",
    "i'": "ɪ",
    "wi'": "wɪ",
    "missus": "mˈɪsɪz",
}  # misaki has none
_ENDINGS = {"'d": "d", "'ll": "əl", "'s": "s", "'m": "m", "'re": "ɹ", "'ve": "v", "n't": "ᵊnt", "'n'": "ən"}
_PIECES = re.compile(
    r"'n'|'(?:ll|d|s|m|re|ve)(?![a-z])|n't(?![a-z])|[A-Z]+(?![a-z])|[A-Z]?(?:(?!n't(?![a-z]))[a-z])+|'|-+",
)
_MOST = 6  # pieces that are looked up as one word
_VOWEL = re.compile("[aeiouyAEIOUY]")
_SOUNDS = accent.VOWELS | accent.CONSONANTS


class Pronouncing:
    """Lexicon, tagger and the network for unknown words, in this order.

    Arguments:
        own: a user's words and their phones
    """

    def __init__(self, own: Mapping[str, str]) -> None:
        gold, silver, bronze = (assets.lexicon(name) for name in ("gold", "silver", "bronze"))
        self.lexicon = Lexicon(gold, silver, bronze, own)
        self.tagger = assets.tagger()

    def __call__(self, found: list[Token]) -> None:
        """Fill in tags and phones of tokens, from the last to the first: some depend on what follows."""
        words = [token.text for token in found if token.kind == "word" and len(token.text) > 1]
        if len(words) > 2 and all(word.isupper() for word in words):
            for token in found:  # shouted: "LET US GO" has no initials in it
                small = token.text.lower()
                if token.kind == "word" and (small in self.lexicon.gold or small in self.lexicon.silver):
                    token.text = small
        for token, tag in zip(found, self.tagger([token.text for token in found]), strict=True):
            token.tag = tag
        vowel: bool | None = None
        to_next = False
        for i in range(len(found) - 1, -1, -1):
            token, before = found[i], found[i - 1] if i else None
            if token.kind == "mark":
                vowel = vowel if token.text in '"“”()' else None
                to_next = False
                continue
            if token.fixed is not None:
                token.phones = token.fixed.phones
            elif token.text == "'s" and before is not None and before.fixed is not None and before.fixed.phones:
                token.phones = with_s(before.fixed.phones).removeprefix(before.fixed.phones)
            elif token.kind == "word":
                token.phones = self.word(token.text, token.tag, vowel, to_next)
            vowel = next((one in accent.VOWELS for one in token.phones if one in _SOUNDS), vowel)
            to_next = token.text.lower() == "to"

    def word(self, text: str, tag: str, vowel: bool | None, to_next: bool = False) -> str:
        """Phones of a word, never none; see `Lexicon.say` for the arguments."""
        said = (
            _ENDINGS.get(text)
            or self.lexicon.own.get(text)
            or _SPOKEN.get(text.lower())
            or self.lexicon.say(text, tag, vowel, to_next)
        )
        if said is None:
            said = self._parts(text, tag, vowel)
        return said.replace("ɾ", "T").replace("ʔ", "t")

    def _parts(self, text: str, tag: str, vowel: bool | None) -> str:
        """A compound from its parts, the longest listed ones from the right."""
        cuts = [match.start() for match in _PIECES.finditer(text)]
        parts: list[tuple[str, str]] = []
        end = len(text)
        while end > 0 and cuts:
            said: str | None = ""
            for start in cuts[-_MOST:]:
                piece = text[start:end].strip("-")
                if piece == "a":
                    tag = "DT"  # a-fishing, now-a-days
                said = _ENDINGS.get(piece) or (self.lexicon.say(piece, tag, vowel) if piece.strip("'") else "")
                if said is not None:
                    break
            else:
                start = cuts[-1]
                piece = text[start:end].strip("-")
                said = self._unknown(piece)
            if said:
                parts.append((piece, said))
                vowel = said[0] in accent.VOWELS
            end = start
            cuts = cuts[: cuts.index(start)]
        return _compound(parts[::-1]) if parts else self.lexicon.spell(text)

    def _unknown(self, word: str) -> str:
        """A word that no lexicon has: read if it looks like a word, else spelled."""
        if len(word) > 2 and _VOWEL.search(word):
            said = accent.settled(assets.student()(word))
            if accent.VOWELS & set(said):
                return said
        return self.lexicon.spell(word)


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
