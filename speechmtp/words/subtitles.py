"""Subtitles of timed words, in the formats SubRip (srt) and WebVTT (vtt)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from speechmtp.words.group import split_words
from speechmtp.words.segments import PAUSE, ends_sentence
from speechmtp.words.word import Word, word_spans

LINES, WIDTH = 2, 42  # the most lines of a cue, and characters of a line
LONGEST, SHORTEST = 7.0, 1.0  # seconds that a cue is shown; the shortest only where the next one leaves them
_CLAUSE = (",", ";", ":", "\N{EM DASH}", "\N{FULLWIDTH COMMA}", "\N{IDEOGRAPHIC COMMA}", "\N{FULLWIDTH SEMICOLON}")


class Timed(Protocol):
    """A part of a transcript: its text, start and end in seconds, and its words."""

    @property
    def text(self) -> str:
        """What was said."""

    @property
    def start(self) -> float:
        """Seconds from the beginning of the recording."""

    @property
    def end(self) -> float:
        """Seconds from the beginning of the recording."""

    @property
    def words(self) -> Sequence[Word]:
        """Its words; those of the text where there are none."""


@dataclass(frozen=True)
class Cue:
    """Lines that are shown from `start` to `end` in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Piece:
    """A word with known times and the blank, if any, before it."""

    text: str
    blank: bool
    start: float
    end: float


def cues(parts: Iterable[Timed], single: bool = False) -> list[Cue]:
    """Return the cues of a transcript's parts, one after the other; with `single` one for each word.

    A cue has at most two lines of 42 characters and takes at most 7 s. Where a part is longer it is cut behind the last
    sentence that fits, else behind punctuation, in a pause, or between words.
    """
    found: list[Cue] = []
    for part in parts:
        pieces = _pieces(part)
        while pieces:
            size = 1 if single else _fitting(pieces)
            found.append(Cue(pieces[0].start, pieces[size - 1].end, tuple(_wrapped(pieces[:size]))))
            pieces = pieces[size:]
    return _apart(found)


def srt(found: Iterable[Cue]) -> str:
    """Return a SubRip document. It has no way to write an arrow inside a text, which loses a dash."""
    blocks = []
    for number, cue in enumerate(found, 1):
        text = "\n".join(cue.lines).replace("-->", "->")
        blocks.append(f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{text}\n")
    return "\n".join(blocks)


def vtt(found: Iterable[Cue]) -> str:
    """Return a WebVTT document."""
    blocks = ["WEBVTT\n"]
    for cue in found:
        text = "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{text}\n")
    return "\n".join(blocks)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _pieces(part: Timed) -> list[_Piece]:
    """Return a part's words; those without times are spread over it by their characters. A word that is wider than a
    line becomes several."""
    text = part.text
    words = list(part.words) or [Word(text[start:end]) for start, end in split_words(text)]
    spans = word_spans(text, [word.text for word in words])
    rate = (part.end - part.start) / max(1, len(text))
    found: list[_Piece] = []
    for word, (first, last) in zip(words, spans):
        known = word.start is not None and word.end is not None
        start = word.start if known and word.start is not None else part.start + first * rate
        end = word.end if known and word.end is not None else part.start + last * rate
        blank = first > 0 and text[first - 1].isspace()
        for number, one in enumerate(_short(" ".join(word.text.split()))):
            found.append(_Piece(one, blank and number == 0, start, end))
    return found


def _short(text: str) -> list[str]:
    return [text[place : place + WIDTH] for place in range(0, len(text), WIDTH)]


def _wrapped(pieces: Sequence[_Piece]) -> list[str]:
    """Return the lines of words, each filled as far as it goes."""
    lines: list[str] = []
    for piece in pieces:
        longer = f"{lines[-1]}{' ' if piece.blank else ''}{piece.text}" if lines else ""
        if lines and len(longer) <= WIDTH:
            lines[-1] = longer
        else:
            lines.append(piece.text)
    return lines


def _fitting(pieces: Sequence[_Piece]) -> int:
    """Return how many of the words make the next cue."""
    most = 1
    while most < len(pieces) and pieces[most].end - pieces[0].start <= LONGEST:
        if len(_wrapped(pieces[: most + 1])) > LINES:
            break
        most += 1
    if most == len(pieces):
        return most
    least = most // 3 + 1  # no cue is left with a few words for the sake of a comma
    for cuts in (
        lambda n: ends_sentence(pieces[n - 1].text),
        lambda n: pieces[n - 1].text.endswith(_CLAUSE),
        lambda n: pieces[n].start - pieces[n - 1].end >= PAUSE,
    ):
        places = [size for size in range(least, most + 1) if cuts(size)]
        if places:
            return places[-1]
    return most


def _apart(found: Sequence[Cue]) -> list[Cue]:
    """Let no cue end after the next one starts, and each take a thousandth of a second at least, in whole
    milliseconds."""
    done: list[Cue] = []
    before = 0.0
    for place, cue in enumerate(found):
        start = round(max(cue.start, before), 3)
        following = found[place + 1].start if place + 1 < len(found) else math.inf
        end = max(min(cue.end, start + LONGEST), min(start + SHORTEST, following))
        end = min(end, max(following, start))
        before = max(round(end, 3), round(start + 0.001, 3))
        done.append(replace(cue, start=start, end=before))
    return done
