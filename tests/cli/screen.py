"""A terminal in a few lines: what stands on its screen after text and the control sequences that views write."""

import re
from collections.abc import Sequence

from rich.cells import cell_len

_SEQUENCE = re.compile(r"\x1b\[(\d*)([A-Za-z])|([\s\S])")


class Screen:
    """Lines of `columns` cells; each is a list of characters and whether they are dim. A character that does not fit
    goes to the next line, which then is a continuation."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines: list[list[tuple[str, bool]]] = [[]]
        self._wrapped: list[bool] = [False]  # whether a line goes on in the next
        self._row = self._column = 0
        self._dim = False

    def write(self, text: str) -> None:
        """Take text and control sequences."""
        for number, kind, one in _SEQUENCE.findall(text):
            if kind == "A":
                self._row = max(0, self._row - int(number or 1))
            elif kind == "J":
                self.lines[self._row :] = [self.lines[self._row][: self._column]]
                self._wrapped[self._row :] = [False]
            elif kind == "m":
                self._dim = number == "2"
            elif kind:
                raise AssertionError(f"unknown sequence {number}{kind}")
            elif one == "\r":
                self._column = 0
            elif one == "\n":
                self._next(False)
            else:
                self._put(one)

    def _put(self, one: str) -> None:
        width = cell_len(one)
        if self._column + width > self.columns and self._column:
            self._next(True)
        line = self.lines[self._row]
        line[self._column : self._column + width] = [(one, self._dim)] + [("", self._dim)] * (width - 1)
        self._column += width

    def _next(self, wrapped: bool) -> None:
        self._wrapped[self._row] = wrapped
        self._row, self._column = self._row + 1, 0
        if self._row == len(self.lines):
            self.lines.append([])
            self._wrapped.append(False)

    def resize(self, columns: int) -> None:
        """Lay all lines out anew, as terminals do; the cursor is at the end of the last."""
        whole: list[list[tuple[str, bool]]] = [[]]
        for line, wrapped in zip(self.lines, self._wrapped):
            whole[-1] += line
            whole += [] if wrapped else [[]]
        self.__init__(columns)  # type: ignore[misc]
        for line in whole[:-1]:
            for one, dim in line:
                self._dim = dim
                if one:
                    self._put(one)
            self._dim = False
            self._next(False)
        self._row -= 1
        self.lines.pop()
        self._wrapped.pop()
        self._column = len(self.lines[self._row])

    def text(self, dim: bool | None = None) -> str:
        """The lines; with `dim` only the characters that are dim, or are not."""
        shown = ["".join(one for one, faint in line if dim in (None, faint)).rstrip() for line in self.lines]
        return "\n".join(shown).rstrip("\n")


def joined(lines: str) -> str:
    """Words of lines, with single spaces."""
    return " ".join(lines.split())


def spaceless(texts: Sequence[str]) -> str:
    """Texts without any space, as broken words have them."""
    return "".join("".join(texts).split())
