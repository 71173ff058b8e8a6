"""Tables of `key value` lines: errors name file and line; tables are written in byte order and atomically.

A line is split at its first run of SPACE or TAB only, so a value keeps its Unicode spaces.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

from speechmtp.data.layout import TABLES
from speechmtp.errors import DataError

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_SEPARATOR = re.compile(r"[ \t]+")


def byte_order(key: str) -> bytes:
    """The sort key of Kaldi tables: the UTF-8 bytes, independent of the locale."""
    return key.encode("utf-8")


def split_line(line: str) -> tuple[str, str]:
    """Key and value of a line, split at the first run of SPACE or TAB; the value may be empty."""
    parts = _SEPARATOR.split(line, maxsplit=1)
    return parts[0], parts[1] if len(parts) > 1 else ""


def read_lines(path: str | Path) -> list[tuple[int, str, str]]:
    """Every line of a table as (line number from 1, key, value), in file order; DataErrors name file and line."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path}: {reason}, a Kaldi table is expected here") from error
    if raw.startswith(UTF8_MARK):
        mend = _mend_hint(path, r"sed -i '1s/^\xEF\xBB\xBF//' {}")
        raise DataError(f"{path}:1: a byte-order mark, plain UTF-8 is expected; {mend}")
    if raw.startswith(UTF16_MARKS):
        mend = _mend_hint(path, "iconv -f UTF-16 -t UTF-8 {0} > NEW && mv NEW {0}")
        raise DataError(f"{path}:1: UTF-16, plain UTF-8 is expected; {mend}")
    rows = []
    lines = raw.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for number, line in enumerate(lines, 1):
        rows.append((number, *_decode_line(path, number, line)))
    return rows


def _decode_line(path: Path, number: int, line: bytes) -> tuple[str, str]:
    """Key and value of one line of bytes, without its LF."""
    where = f"{path}:{number}"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start + 1} of the line; convert the file") from error
    if text.endswith("\r"):
        mend = _mend_hint(path, r"sed -i 's/\r$//' {}")
        raise DataError(f"{where}: a carriage return before the line feed, LF alone is expected; {mend}")
    if not text.strip(" \t"):
        mend = _mend_hint(path, r"sed -i '/^[ \t]*$/d' {}")
        raise DataError(f"{where}: a blank line, `key value` is expected; {mend}")
    if text[0] in " \t":
        mend = _mend_hint(path, r"sed -i 's/^[ \t]*//' {}")
        raise DataError(f"{where}: the line starts with a space, a key is expected; {mend}")
    return split_line(text)


def _mend_hint(path: Path, command: str) -> str:
    """How to mend a table: the fix of its data directory, or for a file on its own a shell command, `{}` being the
    file."""
    if path.name in TABLES and any((path.parent / name).is_file() for name in ("wav.scp", "utt2spk")):
        return f"run `speechmtp data validate --fix {shlex.quote(str(path.parent))}`"
    return f"run `{command.format(shlex.quote(str(path)))}`"


def read_numbered(path: str | Path) -> dict[str, tuple[str, int]]:
    """A table as key -> (value, line number); DataError for a repeated key."""
    table: dict[str, tuple[str, int]] = {}
    for number, key, value in read_lines(path):
        if key in table:
            first = table[key][1]
            raise DataError(f"{path}:{number}: key {key!r} stands in line {first} already; keep one of the two lines")
        table[key] = (value, number)
    return table


def read_table(path: str | Path) -> dict[str, str]:
    """A table as key -> value (the rest of the line unchanged), in file order; DataErrors name file and line."""
    return {key: value for key, (value, _) in read_numbered(path).items()}


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` atomically: to a temporary file beside it, which is then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp sets 0600, but others should be able to read a data set
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_table(path: str | Path, mapping: Mapping[str, str]) -> None:
    """Write `key value` lines in byte order of the keys, UTF-8 with LF, atomically. DataError for keys with spaces and
    values with line ends."""
    lines = []
    for key in sorted(mapping, key=byte_order):
        value = mapping[key]
        if not key or re.search(r"\s", key) or "\n" in value or "\r" in value:
            raise DataError(f"{path}: {key!r} {value!r} cannot stand in a table, keys have no spaces, values one line")
        lines.append(f"{key} {value}" if value else key)
    write_bytes(path, "".join(line + "\n" for line in lines).encode("utf-8"))
