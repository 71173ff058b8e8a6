"""How the command line shows what a stream says: as plain text, in a terminal with what may change dimmed, or as JSON.
Imports nothing heavy."""

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from speechmtp.cli.streams import word_row

if TYPE_CHECKING:
    from speechmtp.streaming.events import StreamEvent

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class PlainView:
    """Committed text as it is committed, a line for each segment."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._begun = False  # whether the line has text

    def show(self, events: Sequence["StreamEvent"]) -> None:
        """Show events."""
        for event in events:
            kind = type(event).__name__
            if kind == "Committed":
                self._commit(event.text)  # type: ignore[union-attr]
            elif kind == "Tail":
                self._change(event.text)  # type: ignore[union-attr]
            elif kind == "Final":
                self.close()
        if events:
            self._draw()

    def close(self) -> None:
        """End the line; what may still change is taken back."""
        if self._begun:
            self._out.write("\n")
            self._begun = False
        self._out.flush()

    def _commit(self, text: str) -> None:
        self._out.write(text if self._begun else text.lstrip())
        self._begun = self._begun or bool(text.strip())

    def _change(self, tail: str) -> None:
        """A plain text has no room for what may change."""

    def _draw(self) -> None:
        self._out.flush()


class TerminalView(PlainView):
    """Committed text, and what may change dimmed behind it, in lines that fit the terminal.

    Lines are broken here, never by the terminal. Those that are full of committed text are left alone; what is behind
    them is drawn anew, over what was there. If the terminal has become narrower, that takes more lines by now.
    """

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._said = self._tail = ""  # of the lines that are drawn anew
        self._lines: list[str] = []  # as they stand in the terminal
        self._dim = not os.environ.get("NO_COLOR")

    def close(self) -> None:
        """End the line; what may still change is taken back."""
        self._tail = ""
        self._draw()
        self._said, self._lines = "", []
        super().close()

    def _commit(self, text: str) -> None:
        self._said += text if self._said else text.lstrip()
        self._begun = self._begun or bool(text.strip())

    def _change(self, tail: str) -> None:
        self._tail = tail

    def _draw(self) -> None:
        """Draw all lines that may change anew."""
        width, height = self._size()
        tail = self._tail if self._said else self._tail.lstrip()
        lines = broken(self._said + tail, width)
        steady, left = 0, len(self._said)  # lines of committed text alone, and how much of it is behind them
        while steady < len(lines) - 1 and len(lines[steady]) <= left:
            left -= len(lines[steady])
            steady += 1
        above = sum(max(1, -(-cells(line.rstrip()) // (width + 1))) for line in self._lines) - 1
        shown = [line.rstrip() for line in lines[: steady + max(1, height - 1)]]
        drawn = [*shown[:steady], *(self._styled(line, 0 if i else left) for i, line in enumerate(shown[steady:]))]
        up = f"\x1b[{above}A" if above > 0 else ""
        self._out.write(f"\r{up}\x1b[J" + "\n".join(drawn))
        self._said, self._lines = self._said[len(self._said) - left :], shown[steady:]
        self._out.flush()

    def _styled(self, line: str, said: int) -> str:
        """A line whose first `said` characters are committed."""
        if not self._dim or not line[said:].strip():
            return line
        return f"{line[:said]}{DIM}{line[said:]}{PLAIN}"

    def _size(self) -> tuple[int, int]:
        """Columns that lines may fill, so that the cursor stays in its line, and rows."""
        try:
            columns, rows = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            columns, rows = 80, 24
        return max(1, (columns or 80) - 1), rows or 24


class JsonView:
    """A JSON object a line for each event, with its kind as `event`."""

    def __init__(self, out: TextIO, words: bool) -> None:
        self._out, self._words = out, words

    def show(self, events: Sequence["StreamEvent"]) -> None:
        """Show events."""
        for event in events:
            self._out.write(json.dumps(self._row(event)) + "\n")
        self._out.flush()

    def close(self) -> None:
        """Nothing is left to be said."""

    def _row(self, event: "StreamEvent") -> dict[str, Any]:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
        row: dict[str, Any] = {"event": kind}
        for name, value in vars(event).items():
            if name == "words":
                row |= {"words": [word_row(word) for word in value]} if self._words else {}
            else:
                row[name] = round(value, 3) if isinstance(value, float) else value
        return row


View = PlainView | JsonView


def view_for(output: str, words: bool) -> View:
    """The view for --output txt or json on standard output."""
    out = sys.stdout
    if output == "json":
        return JsonView(out, words)
    capable = out.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return TerminalView(out) if capable else PlainView(out)


def cells(text: str) -> int:
    """How many columns a text takes in a terminal."""
    from rich.cells import cell_len

    return len(text) if text.isascii() else cell_len(text)


def broken(text: str, width: int) -> list[str]:
    """The lines of a text, broken behind spaces so that each, without the spaces at its end, takes at most `width`
    columns; longer words are broken anywhere. The lines joined are the text."""
    lines = [""]
    for piece in re.findall(r"\s*\S+\s*?(?=\s|$)|\s+", text):
        word = piece
        if lines[-1] and cells((lines[-1] + word).rstrip()) > width:
            blank = len(word) - len(word.lstrip())
            lines[-1] += word[:blank]
            lines.append("")
            word = word[blank:]
        while cells(word.rstrip()) > width:
            fit = max(1, next(n for n in range(len(word), -1, -1) if cells(word[:n]) <= width))
            lines[-1:] = [lines[-1] + word[:fit], ""]
            word = word[fit:]
        lines[-1] += word
    return lines
