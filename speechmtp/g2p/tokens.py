"""Words and punctuation of a sentence that is written in words alone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from speechmtp.g2p.traced import FIXED, Fixed, Traced

MARKS = frozenset(';:,.!?—…"“”()')  # punctuation that is a unit
_INITIALS = r"(?:[A-Za-z]{1,2}\.)+[A-Za-z]{1,2}\.?(?![A-Za-z])"
_WORD = r"'?[A-Za-z]+(?:['-]+[A-Za-z]+)*'?"
_TOKEN = re.compile(rf"{FIXED}|{_INITIALS}|{_WORD}|[;:,.!?—…\"“”()']|[^\W\d_]+|\S")
_ELIDED = frozenset("'em 'tis 'twas 'til 'cause 'bout 'round 'n' 'twere 'twill 'd 'll".split())


@dataclass
class Token:
    """A word, a punctuation mark or something fixed; `start` and `end` are characters of the normalised sentence.

    `kind` is "word", "mark", "fixed" or "skipped"; `blank` says whether a blank follows.
    """

    text: str
    start: int
    end: int
    kind: str
    blank: bool = False
    fixed: Fixed | None = None
    tag: str = ""
    phones: str = ""


def tokens(traced: Traced) -> list[Token]:
    """Tokens of a sentence, in order; apostrophes that are quotes become marks, other scripts are "skipped"."""
    text = traced.text
    fixed = iter(traced.fixed)
    found = []
    for match in _TOKEN.finditer(text):
        one, start, end = match[0], match.start(), match.end()
        if one == FIXED:
            found.append(Token(one, start, end, "fixed", fixed=next(fixed)))
        elif one.isascii() and any(c.isalpha() for c in one):
            found += _edges(one, start, text)
        elif one in MARKS or one == "'":
            found.append(Token(one, start, end, "mark"))
        else:
            found.append(Token(one, start, end, "skipped"))
    for token in found:
        token.blank = token.end < len(text) and text[token.end] == " "
    return list(_quotes(found, text))


def _edges(one: str, start: int, text: str) -> Iterator[Token]:
    """A word without the apostrophes at its edges, which stand alone; a sentence's last period too."""
    end = start + len(one)
    if start and text[start - 1] == FIXED and one.startswith("'"):  # 's of a word whose phones are given
        yield Token(one, start, end, "word")
        return
    if one.startswith("'") and one.lower() not in _ELIDED:
        yield Token("'", start, start + 1, "mark")
        start, one = start + 1, one[1:]
    tail = []
    if one.endswith("'") and one.lower() not in _ELIDED:
        tail = [Token("'", end - 1, end, "mark")]
        end, one = end - 1, one[:-1]
    yield Token(one, start, end, "word")
    if one.endswith(".") and not text[end:].strip(" \"'”)"):
        tail.insert(0, Token(".", end - 1, end, "mark"))
    yield from tail


def _quotes(found: list[Token], text: str) -> Iterator[Token]:
    """Straight quotes become “ or ”; an apostrophe that only stands for lost letters joins its word."""
    opened = False  # a single quote
    for i, token in enumerate(found):
        before = text[token.start - 1] if token.start else " "
        opens = before in " (—“'\"-"
        if token.text == '"' and token.kind == "mark":
            token.text = "“" if opens and not token.blank and token.end < len(text) else "”"
        elif token.text == "'" and token.kind == "mark":
            if opens and not token.blank:
                token.text, opened = "“", True
            elif opened or before in ",.!?;:…—":
                token.text, opened = "”", False
            else:  # trustees' meeting, somethin' new
                if i and found[i - 1].kind == "word" and found[i - 1].end == token.start:
                    found[i - 1].text += "'"
                    found[i - 1].end, found[i - 1].blank = token.end, token.blank
                continue
        yield token
