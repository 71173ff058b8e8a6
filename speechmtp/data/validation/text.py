"""Checks of transcripts (E17 to E22), and fixes that have one right answer."""

from __future__ import annotations

import re
import unicodedata

from speechmtp.data.validation.defects import DROP, FIX, NONE, WARN, CheckOptions, Defect, Row, Table

RESERVED = frozenset({"<s>", "</s>", "<eps>", "<pad>", "<blank>", "<sos/eos>", "#0", "***"})
_SPECIAL = re.compile(r"<\|[^|<>\s]+\|>")
_JOINERS = frozenset("\u200c\u200d")  # zero-width (non-)joiners are part of the spelling in some scripts


def non_printing(character: str) -> bool:
    """Whether a character is a control, format, private-use or unassigned one that no transcript should have."""
    if character in _JOINERS or character.isspace():
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn")


def mend_text(text: str) -> str:
    """The transcript without non-printing characters, in NFC, with single ASCII spaces between words."""
    kept = "".join(" " if c.isspace() else c for c in text if not non_printing(c))
    return re.sub(" +", " ", unicodedata.normalize("NFC", kept)).strip(" ")


def check_text(table: Table, options: CheckOptions) -> list[Defect]:
    """The defects of every transcript."""
    defects = []
    for row in table.rows:
        if row.sound:
            defects += _check_transcript(table.path, row, options)
    return defects


def _check_transcript(path: str, row: Row, options: CheckOptions) -> list[Defect]:
    """The defects of one transcript, at most one per code."""
    found = []

    def add(code: str, text: str, fix: str) -> None:
        found.append(Defect(code, path, row.line, text, fix, row.key))

    odd = next((c for c in row.value if non_printing(c)), None)
    if odd is not None:
        add("E17", f"non-printing character U+{ord(odd):04X} in text", FIX)
    space = next((c for c in row.value if c.isspace() and c != " "), None)
    if space is not None:
        add("E18", f"space U+{ord(space):04X} in text", FIX)
    if row.value and (len(row.separator) > 1 or row.value.endswith(" ") or "  " in row.value):
        place = "leading" if len(row.separator) > 1 else "trailing" if row.value.endswith(" ") else "double"
        add("E19", f"{place} space", FIX)
    if not mend_text(row.value):
        add("E20", "empty transcript", DROP if options.training else WARN)
    reserved = next((w for w in row.value.split() if w in RESERVED), None) or _SPECIAL.search(row.value)
    if reserved is not None:
        name = reserved if isinstance(reserved, str) else reserved.group()
        add("E21", f"reserved symbol {name}", NONE)
    if not unicodedata.is_normalized("NFC", row.value):
        add("E22", "text not NFC", FIX)
    return found
