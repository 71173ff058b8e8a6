"""Phones that a user gives: checked, in misaki's symbols or in IPA, inline, in SSML or in a file."""

import re
from pathlib import Path

from speechmtp.errors import DataError
from speechmtp.g2p.symbols import SYMBOLS

_ALIKE = {"ɾ": "T", "ʔ": "t", "g": "ɡ"}  # what the corpora of voices never have, by what they have
# IPA of American English by misaki's symbols, the longest first; the length mark and syllable dots are left out.
_IPA = {
    "eɪ": "A", "aɪ": "I", "oʊ": "O", "əʊ": "O", "aʊ": "W", "ɔɪ": "Y", "tʃ": "ʧ", "dʒ": "ʤ", "ɜː": "ɜɹ", "ɜːɹ": "ɜɹ",
    "əl̩": "ᵊl", "l̩": "ᵊl", "n̩": "ᵊn", "m̩": "ᵊm", "ɝ": "ɜɹ", "ɚ": "əɹ", "r": "ɹ", "ɒ": "ɑ", "e": "ɛ", "o": "O",
    "ɫ": "l", "ʍ": "w", "ɐ": "ə", "ɨ": "ᵻ", "ʉ": "u", "ː": "", "ˑ": "", ".": "", "'": "ˈ", "’": "ˈ", "̯": "", "͡": "",
    "‿": "",
}  # fmt: skip
_ANY_IPA = re.compile("|".join(re.escape(one) for one in sorted(_IPA, key=len, reverse=True)))
_STRESSED = re.compile("([ˈˌ])([^ˈˌ AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻᵊ]*)")


def checked(phones: str, where: str, what_to_do: str = "write misaki's symbols, as in kˈOkəɹO") -> str:
    """Phones in misaki's symbols; a symbol that is none of them is a `DataError` that names it and its place."""
    for number, one in enumerate(phones, 1):
        if one not in SYMBOLS and one not in _ALIKE:
            raise DataError(f"{where}: {one!r} as symbol {number} of {phones!r}, no such phone; {what_to_do}")
    said = "".join(_ALIKE.get(one, one) for one in phones).strip()
    if not said:
        raise DataError(f"{where}: no phones, expected at least one; {what_to_do}")
    return said


def from_ipa(ipa: str, where: str) -> str:
    """Misaki's symbols for IPA: diphthongs and affricates are one symbol, stress stands before its vowel."""
    said = _ANY_IPA.sub(lambda match: _IPA[match[0]], ipa.replace("͡", ""))
    said = _STRESSED.sub(lambda match: match[2] + match[1], said)
    return checked(said, where, "write the IPA of American English")


def read_lexicon(path: str | Path) -> dict[str, str]:
    """A lexicon file: a word and its phones a line, with a tab or blanks between; `#` begins a comment.

    Phones may hold blanks after a tab. A file that cannot be read, or a wrong line, is a `DataError` that names it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(f"{path}: {reason}, expected a lexicon; give a file of lines `word<TAB>phones`") from None
    words: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        word, _, phones = text.partition("\t") if "\t" in text else text.partition(" ")
        where = f"{path}:{number}"
        if not phones.strip():
            raise DataError(f"{where}: {text!r}, expected a word and its phones; write `word<TAB>phones`")
        words[word.strip()] = checked(phones.strip(), where)
    return words
