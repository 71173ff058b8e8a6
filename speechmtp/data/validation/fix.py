"""Repair a Kaldi data directory: fix defects that have one right answer and, on request, drop the others.

All work is done on the bytes in memory and checked again until nothing changes. Then the old files are copied to
`.backup/<time>/` and the new ones are renamed into place. A second run changes nothing.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from speechmtp.data.layout import TABLES, is_of_utterances, read_contents
from speechmtp.data.tables import write_bytes
from speechmtp.data.validation.audio_probe import AudioProbe
from speechmtp.data.validation.defects import (
    DROP,
    FIX,
    CheckOptions,
    Defect,
    Row,
    Tables,
    speakers_of,
    utterance_rows,
)
from speechmtp.data.validation.ids import invert
from speechmtp.data.validation.lines import check_table, sort_rows
from speechmtp.data.validation.text import mend_text
from speechmtp.data.validation.validate import check_contents
from speechmtp.errors import DataError

MAX_PASSES = 10
Contents = dict[str, bytes]


@dataclass
class FixReport:
    """The actions of a fix and the remaining defects."""

    actions: list[str] = field(default_factory=list)  # one line each, to print
    changed: list[str] = field(default_factory=list)  # names of the files rewritten
    backup: Path | None = None
    defects: list[Defect] = field(default_factory=list)  # remaining ones


def fix_data_dir(
    directory: str | Path, options: CheckOptions | None = None, drop: bool = False, rename: bool = False
) -> FixReport:
    """Fix the directory in place; `drop` also drops unusable utterances, `rename` also prefixes ids with their speaker.
    DataError for a missing folder, or if dropping would leave no utterance."""
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"{directory}: no such folder, a Kaldi data directory is expected")
    options = options or CheckOptions()
    probe = AudioProbe()
    original = read_contents(directory)
    contents = dict(original)
    report = FixReport()
    before = Counter(d.code for d in check_contents(directory, contents, options, probe) if d.fix == FIX)
    for _ in range(MAX_PASSES):
        known = dict(contents)
        for name in TABLES:
            if contents.get(name, b"").strip():
                contents[name] = _mend_lines(name, contents[name])
        defects = check_contents(directory, contents, options, probe)
        _derive(contents, defects)
        _mend_durations(contents, defects)
        if drop:
            _drop(directory, contents, defects, report)
        if rename and any(defect.code == "E15" for defect in defects):
            _rename(contents, report)
        if contents == known:
            break
    report.defects = check_contents(directory, contents, options, probe)
    after = Counter(defect.code for defect in report.defects if defect.fix == FIX)
    report.actions[:0] = [f"mended {count} of {code}" for code, count in sorted((before - after).items())]
    _write(directory, original, contents, report)
    return report


def _write(directory: Path, original: Contents, contents: Contents, report: FixReport) -> None:
    """Back up the old files and put the changed ones in place."""
    report.changed = sorted(name for name in contents if contents[name] != original.get(name))
    if not report.changed:
        return
    stamp = time.strftime("%Y%m%d-%H%M%S")
    backup = directory / ".backup" / stamp
    number = 1
    while backup.exists():
        number += 1
        backup = directory / ".backup" / f"{stamp}-{number}"
    backup.mkdir(parents=True)
    for name in report.changed:
        if name in original:
            shutil.copy2(directory / name, backup / name)
    for name in report.changed:
        write_bytes(directory / name, contents[name])
    report.backup = backup


def _parse(contents: Contents) -> Tables:
    """All files as tables, whatever their state."""
    return {name: check_table(name, Path(name), content)[0] for name, content in contents.items()}


def _bytes(rows: list[Row]) -> bytes:
    """The lines of a table as bytes; bytes that were not UTF-8 are restored."""
    lines = "".join(f"{row.key}{row.separator}{row.value}\n" for row in rows)
    return lines.encode("utf-8", errors="surrogateescape")


def _mend_lines(name: str, content: bytes) -> bytes:
    """Fix line ends, blank lines, order, repeated lines and (in `text`) characters."""
    rows = check_table(name, Path(name), content)[0].rows
    if name == "text":
        for row in rows:
            if row.sound:
                row.value = mend_text(row.value)
                row.separator = " " if row.value else ""
    kept, seen = [], set()
    for row in sort_rows(rows):
        mark = (row.key, row.value.strip(" \t"))
        if mark not in seen:
            seen.add(mark)
            kept.append(row)
    return _bytes(kept)


def _derive(contents: Contents, defects: list[Defect]) -> None:
    """Rebuild utt2spk from spk2utt if it is missing, or spk2utt from utt2spk if it is missing or wrong."""
    tables = _parse({name: contents[name] for name in ("utt2spk", "spk2utt") if name in contents})
    if "utt2spk" not in tables and "spk2utt" in tables:
        pairs = [(key, s) for s, row in tables["spk2utt"].first.items() for key in row.fields]
        speakers = dict(pairs)
        if pairs and len(speakers) == len(pairs):  # an utterance of two speakers has no one right answer
            contents["utt2spk"] = _bytes(sort_rows([Row(0, key, " ", s) for key, s in speakers.items()]))
        return
    wrong = any(Path(d.path).name == "spk2utt" or d.code == "E16" for d in defects)
    unsure = any(Path(d.path).name == "utt2spk" and d.code in ("E03", "E08", "E11") for d in defects)
    if wrong and not unsure and "utt2spk" in tables:
        inverse = invert(speakers_of(tables))
        if inverse:
            rows = [Row(0, speaker, " ", " ".join(keys)) for speaker, keys in inverse.items()]
            contents["spk2utt"] = _bytes(sort_rows(rows))


def _mend_durations(contents: Contents, defects: list[Defect]) -> None:
    """Replace wrong durations by the true ones; remove those whose true value is unknown."""
    wrong: dict[str, dict[str, str | None]] = {}
    for defect in defects:
        if defect.code in ("E33", "E34"):
            wrong.setdefault(Path(defect.path).name, {})[defect.key] = defect.mend
    for name, values in wrong.items():
        rows = []
        for row in _parse({name: contents[name]})[name].rows:
            mend = values.get(row.key, row.value)
            if mend is not None:
                row.value = mend
                rows.append(row)
        contents[name] = _bytes(rows)


def _drop(directory: Path, contents: Contents, defects: list[Defect], report: FixReport) -> None:
    """Drop the utterances and recordings that defects name from every table, and report it."""
    tables = _parse(contents)
    utterances: set[str] = set()
    recordings: set[str] = set()
    genders: set[str] = set()
    for defect in defects:
        if defect.fix != DROP:
            continue
        kind = genders if defect.code == "E37" else recordings if defect.code in ("E28", "E29") else utterances
        if defect.key not in kind:
            place = f"{Path(defect.path).name}:{defect.line}"
            what = "set the gender to u of" if kind is genders else "dropped"
            report.actions.append(f"{what} {defect.key!r} ({place}: {defect.code} {defect.text})")
        kind.add(defect.key)
    if genders and "spk2gender" in tables:
        _reset_genders(contents, tables, genders)
    if not utterances and not recordings:
        return
    everything = utterance_ids(tables)
    if "segments" in tables:
        rows = tables["segments"].rows
        utterances |= {row.key for row in rows if row.fields and row.fields[0] in recordings}
        used = {row.fields[0] for row in rows if row.fields and row.key not in utterances}
        recordings |= {row.fields[0] for row in rows if row.fields} - used
    else:
        utterances |= recordings
    if not everything - utterances:
        raise DataError(f"{directory}: dropping would leave no utterance; mend the set by hand, nothing was done")
    _filter(contents, tables, utterances, recordings)


def _filter(contents: Contents, tables: Tables, utterances: set[str], recordings: set[str]) -> None:
    """Remove the lines of the utterances, of the recordings, and of speakers without utterances from the tables."""
    everything = utterance_ids(tables)
    remaining = {s for key, s in speakers_of(tables).items() if key not in utterances}
    for name, table in tables.items():
        if name == "spk2utt":
            continue  # rebuilt from utt2spk
        if is_of_utterances(name, table.first.keys(), everything, "segments" in tables):
            rows = [row for row in table.rows if row.key not in utterances]
        elif name == "wav.scp" or name.startswith("reco2"):
            rows = [row for row in table.rows if row.key not in recordings]
        elif name.startswith("spk2"):
            rows = [row for row in table.rows if row.key in remaining]
        else:
            continue
        if len(rows) != len(table.rows):
            contents[name] = _bytes(rows)


def utterance_ids(tables: Tables) -> set[str]:
    """Every utterance id in any table."""
    named = [tables[name] for name in ("utt2spk", "text") if name in tables]
    audio = utterance_rows(tables)
    return {key for table in (*named, *([audio] if audio else [])) for key in table.first}


def _reset_genders(contents: Contents, tables: Tables, speakers: set[str]) -> None:
    """Set gender u (unknown) for these speakers, whether they have a line or not."""
    rows = [row for row in tables["spk2gender"].rows if row.key not in speakers]
    rows += [Row(0, speaker, " ", "u") for speaker in sorted(speakers)]
    contents["spk2gender"] = _bytes(sort_rows(rows))


def _rename(contents: Contents, report: FixReport) -> None:
    """Prefix `<speaker>-` to every id that does not start with it, in all tables of utterances."""
    tables = _parse(contents)
    speakers = speakers_of(tables)
    names = {k: f"{s}-{k}" for k, s in speakers.items() if not k.startswith(f"{s}-")}
    final = [names.get(key, key) for key in speakers]
    if not names or len(set(final)) != len(final):
        return
    everything = utterance_ids(tables)
    for name, table in tables.items():
        if is_of_utterances(name, table.first.keys(), everything, "segments" in tables):
            for row in table.rows:
                row.key = names.get(row.key, row.key)
            contents[name] = _bytes(sort_rows(table.rows))
    report.actions.append(f"renamed {len(names)} utterances to start with their speaker")
