"""Characters that look different and read alike: accents, wide and joined letters, quotes, dashes, blanks."""

import unicodedata

from speechmtp.g2p.abbreviations import FOLDED
from speechmtp.g2p.traced import FIXED, Traced

_HALVES = {"½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5", "⅛": " 1/8", "⅜": " 3/8",
           "⅝": " 5/8", "⅞": " 7/8"}  # fmt: skip
_KEEP = frozenset("“”—–…×÷±≈≤≥≠§¶©°‰€£¥¢₹₩√∞→−№µ" + FIXED)


def _fold(one: str) -> str:
    """What one character reads as; letters of other scripts stay, marks without a letter go."""
    if one in _HALVES:
        return _HALVES[one]
    if one in _KEEP:
        return one
    if one in FOLDED:
        return FOLDED[one]
    if one.isspace():
        return " "
    kind = unicodedata.category(one)
    if kind in ("Mn", "Me", "Cf", "Cc", "Co", "Cs", "Cn"):
        return ""
    if kind == "Nd":
        return str(unicodedata.decimal(one))
    plain = "".join(FOLDED.get(part, part) for part in unicodedata.normalize("NFKD", one))
    plain = "".join(part for part in plain if not unicodedata.combining(part))
    # A letter that folds to a blank stays, so that it is told of.
    return plain if plain.isascii() and (plain.strip() or not one.isalpha()) else one


def fold(traced: Traced) -> Traced:
    """The text in letters from a to z where Unicode knows them, with single blanks and plain quotes and dashes."""
    if traced.text.isascii() and traced.text.isprintable() and "  " not in traced.text and "`" not in traced.text:
        return traced
    text: list[str] = []
    places: list[tuple[int, int]] = []
    for one, place in zip(traced.text, traced.places, strict=True):
        new = one if "!" <= one <= "~" and one != "`" else _fold(one)
        if new == " " and text and text[-1] == " ":
            continue
        text += new
        places += [place] * len(new)
    folded = Traced("".join(text), places, traced.fixed)
    folded.speeds = traced.speeds
    return folded
