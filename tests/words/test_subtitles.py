"""Subtitles: lengths, durations, cuts, and files that players read."""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from speechmtp.words.subtitles import LINES, LONGEST, WIDTH, Cue, cues, srt, vtt
from speechmtp.words.word import Word


@dataclass(frozen=True)
class Part:
    """A part of a transcript."""

    text: str
    start: float
    end: float
    words: tuple[Word, ...] = ()


def spoken(text: str, seconds: float = 0.4, start: float = 0.0, pauses: dict[int, float] | None = None) -> Part:
    """A part whose words take so many seconds each; `pauses` are behind words, by number."""
    words, at = [], start
    for number, word in enumerate(text.split()):
        words.append(Word(word, at, at + seconds))
        at += seconds + (pauses or {}).get(number, 0.0)
    return Part(text, start, at, tuple(words))


def check(found: list[Cue]) -> None:
    """All that players want."""
    assert all(len(cue.lines) <= LINES and all(0 < len(line) <= WIDTH for line in cue.lines) for cue in found)
    assert all(0 < cue.end - cue.start <= LONGEST + 1e-9 for cue in found)
    assert all(before.end <= cue.start for before, cue in pairwise(found))


def text_of(found: list[Cue]) -> str:
    return " ".join(line for cue in found for line in cue.lines)


def test_a_short_part_is_a_cue() -> None:
    [cue] = cues([spoken("one two three", start=2.0)])
    assert cue == Cue(2.0, 3.2, ("one two three",))
    [cue] = cues([spoken("no")])
    assert (cue.start, cue.end) == (0.0, 1.0), "shown for a second where there is time"


@pytest.mark.parametrize(
    ("text", "pauses", "first"),
    [
        ("one two three four five six seven eight. nine, ten eleven twelve thirteen fourteen", {}, "eight."),
        ("one two three four five six seven eight nine, ten eleven twelve thirteen fourteen fifteen", {}, "nine,"),
        ("one two three four five six seven eight nine ten eleven twelve thirteen fourteen", {9: 0.3}, "ten"),
        ("one two, three four five six seven eight nine ten eleven twelve thirteen fourteen", {}, "fourteen"),
    ],
)  # fmt: skip
def test_cut_at_sentences_then_commas_then_pauses(text: str, pauses: dict[int, float], first: str) -> None:
    found = cues([spoken(text + " and so on and on and on", 0.4, 0.0, pauses)])
    check(found)
    assert found[0].lines[-1].split()[-1] == first
    assert text_of(found) == text + " and so on and on and on"


def test_random_transcripts_give_valid_cues() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = " ".join("x" * rng.integers(1, 60 if rng.random() < 0.05 else 9) + rng.choice(["", "", ",", "."])
                        for _ in range(rng.integers(1, 60)))  # fmt: skip
        at = np.sort(rng.random(2 * len(text.split())) * rng.choice([0.0, 5.0, 60.0]))
        timed = rng.random() < 0.8
        words = [
            Word(word, *(map(float, at[2 * n : 2 * n + 2]) if timed else ())) for n, word in enumerate(text.split())
        ]
        part = Part(text, 0.0, 60.0, tuple(words) if rng.random() < 0.8 else ())
        found = cues([part], single=bool(rng.random() < 0.3))
        check(found)
        assert text_of(found).replace(" ", "") == text.replace(" ", "")


def test_a_cue_a_word() -> None:
    found = cues([spoken("one two"), spoken("three", start=5.0)], single=True)
    check(found)
    assert [(cue.start, cue.end, cue.lines) for cue in found] == [
        (0.0, 0.4, ("one",)), (0.4, 1.4, ("two",)), (5.0, 6.0, ("three",))
    ]  # fmt: skip


def test_scripts_without_blanks_are_wrapped() -> None:
    text = "".join(chr(0x4E00 + n) for n in range(100))
    words = tuple(Word(one, 0.05 * n, 0.05 * n + 0.05) for n, one in enumerate(text))
    found = cues([Part(text, 0.0, 5.0, words)])
    check(found)
    assert "".join(line for cue in found for line in cue.lines) == text


def test_documents() -> None:
    found = [Cue(0.0, 1.5, ("a --> b & <i>",)), Cue(3661.25, 3662.0, ("one", "two"))]
    assert srt(found) == (
        "1\n00:00:00,000 --> 00:00:01,500\na -> b & <i>\n\n2\n01:01:01,250 --> 01:01:02,000\none\ntwo\n"
    )
    assert vtt(found) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na --&gt; b &amp; &lt;i&gt;\n\n"
        "01:01:01.250 --> 01:01:02.000\none\ntwo\n"
    )
    assert srt([]) == "" and vtt([]) == "WEBVTT\n"


def test_no_blank_line_inside_a_cue() -> None:
    [cue] = cues([Part("said -\n\n- so", 0.0, 1.0, (Word("said -\n\n-", 0.0, 0.5), Word("so", 0.5, 1.0)))])
    assert cue.lines == ("said - - so",)
    assert not re.search(r"\n\n.", srt([cue]))
