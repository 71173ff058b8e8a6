"""Tables of result rows, as plain text for a terminal and as markdown for a file."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Align = Literal["left", "right"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column: the key of a row, its heading, decimals of floats, and the side it is aligned to.

    Without `title` the key is the heading (with spaces for underscores); without `align` a column of
    numbers is right-aligned and any other left-aligned.
    """

    key: str
    title: str = ""
    digits: int = 2
    align: Align | None = None

    @property
    def heading(self) -> str:
        """The text above the column."""
        return self.title or self.key.replace("_", " ")


def format_cell(value: Any, digits: int = 2) -> str:
    """A cell as text: `-` for None, yes or no, `digits` decimals for floats, `key=value,…` for a mapping."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    if isinstance(value, Mapping):
        return ",".join(f"{key}={format_option(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_cell(item, digits) for item in value) or "-"
    return str(value)


def format_option(value: Any) -> str:
    """An option's value as it is typed on a command line: floats in their shortest form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def short_label(label: str) -> str:
    """A strategy's label with the number of a tree's paths in place of the list of paths."""
    head, _, rest = label.partition("paths=")
    paths, _, more = rest.partition(",")
    return f"{head}paths={paths.count('.') + 1} nodes" + (f",{more}" if more else "") if rest else label


def render_text(rows: Sequence[Row], columns: Sequence[Column | str]) -> str:
    """The rows as plain text under a heading and a dashed line, in columns two spaces apart, ending in a newline."""
    chosen, cells, aligns = _layout(rows, columns)
    headings = [column.heading for column in chosen]
    widths = [max(map(_width, column)) for column in zip(headings, *cells)]
    lines = [_join(headings, widths, aligns), "  ".join("-" * width for width in widths)]
    lines.extend(_join(row, widths, aligns) for row in cells)
    return "\n".join(lines) + "\n"


def render_markdown(rows: Sequence[Row], columns: Sequence[Column | str]) -> str:
    """The rows as a markdown table, aligned in the source as well, ending in a newline."""
    chosen, cells, aligns = _layout(rows, columns)
    headings = [_escape(column.heading) for column in chosen]
    cells = [[_escape(cell) for cell in row] for row in cells]
    widths = [max(3, *map(_width, column)) for column in zip(headings, *cells)]
    rules = ["-" * (w - 1) + ":" if a == "right" else "-" * w for w, a in zip(widths, aligns)]
    lines = [
        "| " + " | ".join(_pad(cell, w, a) for cell, w, a in zip(row, widths, aligns)) + " |"
        for row in [headings, rules, *cells]
    ]
    return "\n".join(lines) + "\n"


def _layout(rows: Sequence[Row], columns: Sequence[Column | str]) -> tuple[list[Column], list[list[str]], list[Align]]:
    """Columns, cells as text, and the side of each column."""
    chosen = [column if isinstance(column, Column) else Column(column) for column in columns]
    cells = [[format_cell(row.get(column.key), column.digits) for column in chosen] for row in rows]
    aligns: list[Align] = []
    for column in chosen:
        values = [row[column.key] for row in rows if row.get(column.key) is not None]
        numeric = bool(values) and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
        )
        aligns.append(column.align or ("right" if numeric else "left"))
    return chosen, cells, aligns


def _join(cells: Sequence[str], widths: Sequence[int], aligns: Sequence[Align]) -> str:
    return "  ".join(_pad(cell, w, a) for cell, w, a in zip(cells, widths, aligns)).rstrip()


def _pad(cell: str, width: int, align: Align) -> str:
    fill = " " * (width - _width(cell))
    return fill + cell if align == "right" else cell + fill


def _width(text: str) -> int:
    """Columns that `text` takes in a terminal: two for wide characters, none for combining marks."""
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def _escape(cell: str) -> str:
    """A cell with the characters escaped that would end it in markdown."""
    return cell.replace("|", "\\|").replace("\n", " ")
