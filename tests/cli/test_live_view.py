"""What is shown of a stream: committed text stays, what may change is drawn anew, at any width and after a resize."""

import io
import json
import os
import random

import pytest
from screen import Screen, joined, spaceless

from speechmtp.cli import live_view
from speechmtp.cli.live_view import JsonView, PlainView, TerminalView, broken, cells, view_for
from speechmtp.streaming.events import Committed, Ended, Final, SpeechStarted, StreamEvent, Tail
from speechmtp.words.word import Word

WORDS = "so it was said that we hear internationalisation and 東京 , right ? indeed".split()


def segment(draw: random.Random, first: bool, count: int = 14) -> tuple[list[list[StreamEvent]], str]:
    """The events of passes over a segment, and its text."""
    words, said, passes = [draw.choice(WORDS) for _ in range(count)], 0, list[list[StreamEvent]]()
    while said < len(words):
        more = draw.randrange(4)
        text = "".join(f" {word}" for word in words[said : said + more])
        events: list[StreamEvent] = [Committed(text[first and said == 0 :], (), 0.0)] if text else []
        said += more
        tail = "".join(f" {draw.choice(WORDS)}" for _ in range(draw.randrange(5)))
        passes.append([*events, Tail(tail[first and said == 0 :], 0.0)])
    text = " ".join(words)
    passes.append([Final(text, (), 0.0, 1.0, "endpoint", 1.0)])
    return passes, text


class Terminal(TerminalView):
    """A view of a screen."""

    def __init__(self, columns: int, rows: int = 40) -> None:
        self.out, self.screen, self.rows = io.StringIO(), Screen(columns), rows
        super().__init__(self.out)

    def _size(self) -> tuple[int, int]:
        return max(1, self.screen.columns - 1), self.rows

    def tell(self, events: list[StreamEvent]) -> str:
        """Show events; what was written."""
        self.show(events)
        new = self.out.getvalue()
        self.out.seek(self.out.truncate(0))
        self.screen.write(new)
        return new


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 12, 30, 80, 200])
@pytest.mark.parametrize("seed", range(3))
def test_a_terminal_shows_what_was_said_and_what_may_change(columns: int, seed: int) -> None:
    draw, view, texts = random.Random(seed), Terminal(columns, rows=400), list[str]()
    for number in range(3):
        passes, text = segment(draw, number == 0)
        said = list[str]()
        for events in passes:
            view.tell(events)
            said += [event.text for event in events if isinstance(event, Committed)]
            tail = [event.text for event in events if isinstance(event, Tail)]
            assert spaceless([view.screen.text(dim=False)]) == spaceless([*texts, *said])
            assert spaceless([view.screen.text(dim=True)]) == spaceless(tail)
        texts.append(text)
    lines = view.screen.text().split("\n")
    assert all(cells(line) <= max(2, columns - 1) for line in lines), "the terminal broke no line"
    if columns > 25:
        assert joined(view.screen.text()) == " ".join(texts)
        assert all(line == line.strip() for line in lines)
    if columns == 200:
        assert lines == texts


@pytest.mark.parametrize("seed", range(6))
def test_a_resized_terminal_goes_on(seed: int) -> None:
    draw, view, texts = random.Random(seed), Terminal(60), list[str]()
    for number in range(4):
        passes, text = segment(draw, number == 0)
        for events in passes:
            view.tell(events)
            if draw.random() < 0.5:
                view.screen.resize(draw.choice([20, 31, 60, 90]))
        texts.append(text)
    assert spaceless([view.screen.text(dim=False)]) == spaceless(texts) and not view.screen.text(dim=True)


def test_a_long_tail_stays_on_the_screen() -> None:
    """A terminal cannot go up to lines that have left it."""
    view = Terminal(12, rows=4)
    view.tell([Committed("one", (), 0.0), Tail(" and many words" * 12, 0.0)])
    assert len(view.screen.lines) == 3
    view.tell([Committed(" two", (), 0.0), Final("one two", (), 0.0, 1.0, "endpoint", 1.0)])
    assert view.screen.text() == "one two"


def test_without_colours_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    view = Terminal(40)
    shown = view.tell([Committed("one", (), 0.0), Tail(" two", 0.0)])
    assert view.screen.text() == "one two" and "\x1b[2m" not in shown
    monkeypatch.setenv("NO_COLOR", "")
    assert "one\x1b[2m two\x1b[0m" in Terminal(40).tell([Committed("one", (), 0.0), Tail(" two", 0.0)])


def test_doubted_words_leave_the_screen() -> None:
    view = Terminal(40)
    view.tell([Tail("hm", 0.0)])
    assert view.screen.text() == "hm"
    view.tell([Final("", (), 0.0, 1.0, "endpoint", 1.0, dropped=True)])
    assert view.screen.text() == ""
    view.tell([Committed("yes", (), 0.0)])
    view.tell([Tail(" sir", 0.0)])
    assert view.screen.text(dim=True) == " sir"
    view.tell([Committed(" sir", (), 0.0), Final("yes sir", (), 0.0, 1.0, "endpoint", 1.0)])
    assert view.screen.text(dim=False) == "yes sir", "what was dim is not any more"


def test_plain_text_has_a_line_a_segment_and_nothing_is_taken_back() -> None:
    out = io.StringIO()
    view = PlainView(out)
    view.show([SpeechStarted(0.0, 0.1), Tail("So", 0.5)])
    assert out.getvalue() == ""
    view.show([Committed("So", (), 1.0), Tail(" it", 1.0)])
    assert out.getvalue() == "So"
    view.show([Committed(" it.", (), 1.5), Final("So it.", (), 0.0, 1.5, "endpoint", 1.5)])
    view.show([Final("", (), 2.0, 2.0, "flush", 2.0, 1), Committed(" Yes", (), 2.5)])
    assert out.getvalue() == "So it.\nYes"
    view.close()
    view.close()
    assert out.getvalue() == "So it.\nYes\n"


def test_json_has_an_object_a_line() -> None:
    word = Word("So", 0.1, 0.23456, 0.98765)
    events = [SpeechStarted(0.1, 0.25), Committed("So", (word,), 1.0), Ended(2.0)]
    found = []
    for words in (False, True):
        out = io.StringIO()
        JsonView(out, words).show(events)
        found.append([json.loads(line) for line in out.getvalue().splitlines()])
    assert found[0] == [
        {"event": "speech_started", "start": 0.1, "time": 0.25},
        {"event": "committed", "text": "So", "time": 1.0}, {"event": "ended", "time": 2.0},
    ]  # fmt: skip
    assert found[1][1]["words"] == [{"text": "So", "start": 0.1, "end": 0.235, "confidence": 0.988}]


@pytest.mark.parametrize("width", [1, 2, 5, 20])
def test_lines_joined_are_the_text(width: int) -> None:
    text = "a bc  def 東京都 internationalisation  of "
    lines = broken(text, width)
    assert "".join(lines) == text and all(cells(line.rstrip()) <= max(2, width) for line in lines)
    assert broken("", 5) == [""]


def test_a_terminal_is_known_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Out(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(live_view.sys, "stdout", Out())
    for term, kind in (("xterm", TerminalView), ("dumb", PlainView), ("", PlainView)):
        monkeypatch.setenv("TERM", term)
        assert type(view_for("txt", False)) is kind
    assert type(view_for("json", False)) is JsonView
    monkeypatch.setattr(live_view.sys, "stdout", io.StringIO())
    assert type(view_for("txt", False)) is PlainView
    assert os.environ["TERM"] == ""
