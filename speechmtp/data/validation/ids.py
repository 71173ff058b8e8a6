"""Checks across tables (E01, E13 to E16, E37, E38, E42): equal ids in all tables, speakers in order."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from speechmtp.data.layout import UTTERANCE_EXTRAS
from speechmtp.data.validation.defects import (
    DROP,
    FIX,
    NONE,
    WARN,
    CheckOptions,
    Defect,
    Table,
    Tables,
    speakers_of,
    utterance_rows,
)
from speechmtp.data.validation.lines import key_order, sort_rows

GENDERS = frozenset("mfou")
RENAME_HINT = "run `speechmtp data validate --fix --rename` on the directory"


def check_ids(directory: Path, tables: Tables, options: CheckOptions) -> list[Defect]:
    """All defects that concern more than one table."""
    defects = _check_presence(directory, tables, options)
    speakers = tables.get("utt2spk")
    if speakers is None:
        return defects
    if options.need_text and "text" in tables:
        defects += _compare("E13", tables["text"], speakers)
    if options.check_wav:
        table = utterance_rows(tables)
        defects += _compare("E14", table, speakers) if table is not None else []
    for name in UTTERANCE_EXTRAS:
        if name in tables:
            defects += _compare("E14", tables[name], speakers, missing=False)
    if options.speaker_order:
        defects += _check_speaker_order(speakers)
    if "spk2utt" in tables:
        defects += _check_inverse(tables["spk2utt"], speakers)
    if "spk2gender" in tables:
        defects += _check_genders(tables["spk2gender"], speakers)
    if "reco2file_and_channel" in tables:
        defects += _check_channels(tables["reco2file_and_channel"])
    return defects + _check_speaker_count(tables, speakers)


def _check_presence(directory: Path, tables: Tables, options: CheckOptions) -> list[Defect]:
    """E01 for every missing required table."""
    wanted = {"utt2spk": "spk2utt" in tables, "spk2utt": "utt2spk" in tables}
    if options.check_wav:
        wanted["wav.scp"] = False
    if options.need_text:
        wanted["text"] = False
    return [
        Defect("E01", str(directory / name), 0, "required file missing", FIX if derivable else NONE)
        for name, derivable in sorted(wanted.items())
        if name not in tables
    ]


def _compare(code: str, table: Table, speakers: Table, missing: bool = True) -> list[Defect]:
    """Defects (`code`) for ids of `table` that differ from those of utt2spk, one per id."""
    lost = [key for key in speakers.first if key not in table.first] if missing else []
    extra = [key for key in table.first if key not in speakers.first]
    counts = f"{len(lost)} missing, {len(extra)} extra"
    defects = []
    for key in lost:
        text = f"ids of {table.name} and utt2spk differ: {key!r} is not in {table.name} ({counts})"
        defects.append(Defect(code, speakers.path, speakers.at(key), text, DROP, key))
    for key in extra:
        text = f"ids of {table.name} and utt2spk differ: {key!r} is not in utt2spk ({counts})"
        defects.append(Defect(code, table.path, table.at(key), text, DROP, key))
    return defects


def _check_speaker_order(table: Table) -> list[Defect]:
    """E15 where utterances in byte order are not also in the order of their speakers."""
    rows = sort_rows([row for row in table.first.values() if row.sound])
    defects = []
    for before, row in pairwise(rows):
        speaker, previous = row.fields[0], before.fields[0]
        if key_order(speaker) < key_order(previous):
            blame = next((r for r in (before, row) if not r.key.startswith(r.fields[0])), None)
            reason = f"; id {blame.key!r} lacks its speaker's prefix" if blame is not None else ""
            text = f"not sorted by speaker: {speaker!r} after {previous!r}{reason}; {RENAME_HINT}"
            defects.append(Defect("E15", table.path, row.line, text, FIX, row.key))
    return defects


def invert(pairs: dict[str, str]) -> dict[str, list[str]]:
    """Speaker -> its utterances in byte order."""
    inverse: dict[str, list[str]] = {}
    for key in sorted(pairs, key=key_order):
        inverse.setdefault(pairs[key], []).append(key)
    return inverse


def _check_inverse(table: Table, speakers: Table) -> list[Defect]:
    """E16 for every speaker whose line in spk2utt does not list exactly its utterances."""
    wanted = invert({key: row.fields[0] for key, row in speakers.first.items() if row.sound})
    defects = []
    for speaker, row in table.first.items():
        if sorted(row.fields, key=key_order) != wanted.get(speaker, []):
            text = f"spk2utt is not the inverse of utt2spk at speaker {speaker!r}"
            defects.append(Defect("E16", table.path, row.line, text, FIX, speaker))
    for speaker, keys in wanted.items():
        if speaker not in table.first:
            text = f"spk2utt is not the inverse of utt2spk: speaker {speaker!r} is missing"
            defects.append(Defect("E16", speakers.path, speakers.at(keys[0]), text, FIX, speaker))
    return defects


def _check_genders(table: Table, speakers: Table) -> list[Defect]:
    """E37 for values that are not a gender, and for speakers without one."""
    defects = []
    for key, row in table.first.items():
        if row.sound and row.fields[0] not in GENDERS:
            text = f"spk2gender of {key!r} is {row.fields[0]!r}, want m, f, o or u"
            defects.append(Defect("E37", table.path, row.line, text, DROP, key))
    seen = set()
    for row in speakers.first.values():
        speaker = row.fields[0] if row.sound else ""
        if row.sound and speaker not in table.first and speaker not in seen:
            text = f"speaker {speaker!r} is not in spk2gender"
            defects.append(Defect("E37", speakers.path, row.line, text, DROP, speaker))
        seen.add(speaker)
    return defects


def _check_channels(table: Table) -> list[Defect]:
    """E38 for channels other than A and B."""
    return [
        Defect("E38", table.path, row.line, f"channel {row.fields[1]!r} not A or B", WARN, key)
        for key, row in table.first.items()
        if row.sound and row.fields[1] not in ("A", "B")
    ]


def _check_speaker_count(tables: Tables, table: Table) -> list[Defect]:
    """E42 for a single speaker, or as many speakers as utterances."""
    speakers = speakers_of(tables)
    count = len(set(speakers.values()))
    if count == 1:
        return [Defect("E42", table.path, 0, "one speaker only", WARN)]
    if speakers and count == len(speakers):
        return [Defect("E42", table.path, 0, "one speaker per utterance", WARN)]
    return []
