"""Defects with a code, a place and a kind of fix, and the options of a validation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

FIX, DROP, NONE, WARN = "fix", "drop", "none", "warn"
MAX_PER_CODE = 50  # defects of one code that are printed


@dataclass(frozen=True)
class Defect:
    """One finding; `fix` is the kind of repair: `fix` (repairable), `drop` (drop the item), `none`, or `warn` (a
    warning, not an error)."""

    code: str
    path: str
    line: int  # from 1; 0 = the file as a whole
    text: str
    fix: str = NONE
    key: str = ""  # the utterance, recording or speaker concerned
    mend: str | None = None  # the correct value, if known

    def render(self) -> str:
        """The line to print: `path:line: CODE text`."""
        label = "warning: " if self.fix == WARN else ""
        return f"{self.path}:{self.line}: {self.code} {label}{self.text}"


@dataclass(frozen=True)
class CheckOptions:
    """What `validate` checks."""

    root: str | None = None  # for relative audio paths
    need_text: bool = True
    check_wav: bool = True
    speaker_order: bool = True
    training: bool = True  # an empty transcript is an error in a training set, a warning elsewhere
    allow_pipes: bool = False
    audio: str = "header"  # none, header or decode
    against: tuple[str, ...] = ()  # data directories that must not share audio with this one


@dataclass
class Row:
    """One line of a table as read; `sound` means valid UTF-8 and the right number of fields."""

    line: int
    key: str
    separator: str
    value: str
    sound: bool = True

    @property
    def fields(self) -> list[str]:
        """The value's fields, separated by SPACE or TAB only."""
        value = self.value.strip(" \t")
        return re.split(r"[ \t]+", value) if value else []


@dataclass
class Table:
    """One file of a data directory as read."""

    name: str
    path: str
    rows: list[Row] = field(default_factory=list)

    @cached_property
    def first(self) -> dict[str, Row]:
        """Key -> the first row with this key."""
        found: dict[str, Row] = {}
        for row in self.rows:
            found.setdefault(row.key, row)
        return found

    def at(self, key: str) -> int:
        """The line number of a key; 0 if it is missing."""
        row = self.first.get(key)
        return row.line if row else 0


Tables = dict[str, Table]


def utterance_rows(tables: Tables) -> Table | None:
    """The table whose keys are the utterances that have audio: segments, else wav.scp."""
    return tables.get("segments") or tables.get("wav.scp")


def speakers_of(tables: Tables) -> dict[str, str]:
    """Utterance -> speaker, from the valid lines of utt2spk."""
    table = tables.get("utt2spk")
    return {} if table is None else {key: row.fields[0] for key, row in table.first.items() if row.sound}


def errors_in(defects: Iterable[Defect]) -> list[Defect]:
    """The defects that are not warnings."""
    return [defect for defect in defects if defect.fix != WARN]


def render_defects(defects: Iterable[Defect]) -> list[str]:
    """The lines to print: at most `MAX_PER_CODE` per code, then one line with the number of the rest."""
    shown: dict[str, int] = {}
    lines = []
    for defect in defects:
        shown[defect.code] = shown.get(defect.code, 0) + 1
        if shown[defect.code] <= MAX_PER_CODE:
            lines.append(defect.render())
    for code, count in sorted(shown.items()):
        if count > MAX_PER_CODE:
            lines.append(f"{code}: {count - MAX_PER_CODE} more of this code")
    return lines
