"""Checks of a table's bytes and lines (E02 to E12): encoding, line ends, fields, order, duplicates, keys."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from pathlib import Path

from speechmtp.data.layout import TABLES
from speechmtp.data.tables import UTF8_MARK, UTF16_MARKS
from speechmtp.data.validation.defects import FIX, NONE, Defect, Row, Table

_LINE = re.compile(r"([^ \t]*)([ \t]*)(.*)", re.DOTALL)


def check_table(name: str, path: Path, content: bytes) -> tuple[Table, list[Defect]]:
    """The rows of a table, whatever its state, and the defects of its lines."""
    table = Table(name, str(path))
    defects: list[Defect] = []
    where = str(path)
    if not content.strip():
        return table, [Defect("E02", where, 0, "file is empty")]
    if content.startswith(UTF8_MARK):
        defects.append(Defect("E04", where, 1, "byte-order mark", FIX))
        content = content[len(UTF8_MARK) :]
    elif content.startswith(UTF16_MARKS):
        with suppress(UnicodeDecodeError):  # else its lines are not UTF-8
            content = content.decode("utf-16").encode("utf-8")
            defects.append(Defect("E03", where, 1, "UTF-16, UTF-8 is expected", FIX))
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    else:
        defects.append(Defect("E06", where, len(lines), "no newline at end of file", FIX))
    for number, line in enumerate(lines, 1):
        row = _check_line(name, where, number, line, defects)
        if row is not None:
            table.rows.append(row)
    defects += _check_keys(table)
    return table, defects


def _check_line(name: str, where: str, number: int, line: bytes, defects: list[Defect]) -> Row | None:
    """The row of one line, None for a blank one; defects are appended to `defects`."""
    if line.endswith(b"\r"):
        defects.append(Defect("E05", where, number, "CR before LF", FIX))
        line = line.rstrip(b"\r")
    if not line.strip(b" \t"):
        defects.append(Defect("E07", where, number, "blank line", FIX))
        return None
    sound = True
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        defects.append(Defect("E03", where, number, f"not UTF-8 at byte {error.start + 1}"))
        text = line.decode("utf-8", errors="surrogateescape")
        sound = False
    if text[0] in " \t":
        defects.append(Defect("E19", where, number, "leading space before the key", FIX))
    key, separator, value = split_row(text)
    row = Row(number, key, separator, value, sound)
    min_fields, max_fields = TABLES.get(name, (1, None))
    count = 1 + len(row.fields)
    if count < min_fields or (max_fields is not None and count > max_fields):
        want = f"{min_fields}" if max_fields == min_fields else f"{min_fields} to {max_fields}"
        want = f"{min_fields} or more" if max_fields is None else want
        defects.append(Defect("E08", where, number, f"{count} fields, want {want}", NONE, key))
        row.sound = False
    return row


def split_row(text: str) -> tuple[str, str, str]:
    """(key, separator, value) of a line without its end; leading spaces are skipped."""
    match = _LINE.fullmatch(text.lstrip(" \t"))
    assert match is not None  # the pattern matches every string
    return match.group(1), match.group(2), match.group(3)


def key_order(key: str) -> bytes:
    """Byte order of a key that may have undecodable bytes."""
    return key.encode("utf-8", errors="surrogateescape")


def _check_keys(table: Table) -> list[Defect]:
    """Defects of order, duplicates and characters of the keys."""
    defects = []
    previous: Row | None = None
    for row in table.rows:
        bad = bad_key_character(row.key)
        if bad is not None:
            defects.append(Defect("E12", table.path, row.line, f"{bad} in key {row.key!r}", NONE, row.key))
        first = table.first[row.key]
        if first is not row:
            same = first.value.strip(" \t") == row.value.strip(" \t")
            code, what, fix = ("E10", "same", FIX) if same else ("E11", "other", NONE)
            text = f"duplicate key {row.key!r}, {what} value (line {first.line})"
            defects.append(Defect(code, table.path, row.line, text, fix, row.key))
        if previous is not None and key_order(row.key) < key_order(previous.key):
            text = f"key {row.key!r} not in byte order (after {previous.key!r})"
            defects.append(Defect("E09", table.path, row.line, text, FIX, row.key))
        previous = row
    return defects


def bad_key_character(key: str) -> str | None:
    """The first invalid character of a key in words; None if there is none."""
    for character in key:
        if character == "/":
            return "`/`"
        if character.isspace():
            return f"space U+{ord(character):04X}"
        if unicodedata.category(character) in ("Cc", "Cf"):
            return f"control character U+{ord(character):04X}"
    return None


def sort_rows(rows: list[Row]) -> list[Row]:
    """Rows in byte order of their keys; equal keys keep their order."""
    return sorted(rows, key=lambda row: key_order(row.key))
