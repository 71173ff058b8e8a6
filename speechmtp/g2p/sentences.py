"""Where sentences end in a text."""

import re
from collections.abc import Iterator

from speechmtp.g2p.abbreviations import ENDING, LETTERED, MONTH, NUMBERED, TITLES, UNITS, WORDS

LONGEST = 1500  # characters; a longer sentence is cut at a blank
_WRAPPED = 50  # lines are taken as wrapped if the widest of a paragraph has so many characters
_STOP = re.compile(r"(?<![.!?…。！？])[.!?…。！？]++[\"'“”’»)\]]*+(?=\s|$|(?<=[。！？]))|\n")
_BEFORE = re.compile(r"[^\s(\[\"'“”‘’—]+$")
_AFTER = re.compile(r"[\s\"'“‘«(\[]*(\S?)")
_DOTS = re.compile(r"\.{2,}|…")


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Places [start, end) of the sentences of a text, without the blanks around them; lazily."""
    start = 0
    for paragraph_start, paragraph_end in _paragraphs(text):
        start = paragraph_start
        widest = -1
        for match in _STOP.finditer(text, paragraph_start, paragraph_end):
            if match[0] == "\n":
                if widest < 0:
                    widest = _widest(text, paragraph_start, paragraph_end)
                if _wrapped(text, match.start(), paragraph_start, paragraph_end, widest):
                    continue
            elif not _ends(text, match, start, paragraph_end):
                continue
            yield from _pieces(text, start, match.end())
            start = match.end()
        yield from _pieces(text, start, paragraph_end)


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in re.finditer(r"\n[^\S\n]*\n\s*", text):
        yield start, match.start()
        start = match.end()
    yield start, len(text)


def _widest(text: str, start: int, end: int) -> int:
    return max(len(line) for line in text[start:end].split("\n"))


def _wrapped(text: str, place: int, start: int, end: int, widest: int) -> bool:
    """Whether a line ends only because the next word had no room in it."""
    line = place - max(start, text.rfind("\n", start, place) + 1)
    rest = re.compile(r"\s*(\S*)").match(text, place, end)
    word = len(rest[1]) if rest else 0
    return widest >= _WRAPPED and line + 1 + word > widest


def _ends(text: str, match: "re.Match[str]", start: int, end: int) -> bool:
    """Whether a sentence ends at a mark that could end one."""
    after = _AFTER.match(text, match.end(), end)
    first = after[1] if after else ""
    if not first:
        return True
    mark = match[0].rstrip("\"'“”’»)]")
    if mark[-1] in "。！？":
        return True
    if first.islower():
        return False
    if mark != ".":
        return not (_DOTS.fullmatch(mark) and first.isdigit())
    before = _BEFORE.search(text, max(start, match.start() - 24), match.start())
    word = before[0] if before else ""
    written = f"{word}."
    if written in ENDING and not (word == "St" and _saint(text, match.start(), start)):
        return first.isupper()
    if word in TITLES or (written in WORDS and written not in ENDING):
        return False
    if first.isdigit() and (word in UNITS or word.lower() in ("no", "nos", "p", "in")):  # No. 5, 5 ft. 11 in.
        return False
    if word in MONTH or word in NUMBERED:
        return not first.isdigit() or word in MONTH.values()
    if re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]", word):  # U.S. Army
        return match[0] != "." and first.isupper()
    if not re.fullmatch(r"[A-HJ-Z]", word):
        return True
    earlier = text[max(start, match.start() - 30) : match.start() - 1].split()
    return bool(earlier) and earlier[-1].capitalize() in LETTERED  # plan B


def _saint(text: str, place: int, start: int) -> bool:
    """Whether "St." is a saint's: after a small letter or at the start; after a name it is a street."""
    before = text[max(start, place - 30) : place - 2].split()
    return not before or not before[-1][0].isupper()


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A sentence without blanks around it, cut at blanks where it is too long."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while end - start > LONGEST:
        marks = (text.rfind(mark, start + LONGEST // 2, start + LONGEST) for mark in ("; ", ", ", " ", "\n"))
        cut = next((place + 1 for place in marks if place > 0), start + LONGEST)
        yield start, cut
        start = cut
        while start < end and text[start].isspace():
            start += 1
    if start < end:
        yield start, end
