"""Validate a Kaldi data directory: all its defects, with file, line, code and kind of fix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from speechmtp.data.layout import TABLES, read_contents
from speechmtp.data.validation.audio import (
    check_durations,
    check_recordings,
    check_speed,
    locate_audio,
    parse_duration,
    true_durations,
)
from speechmtp.data.validation.audio_probe import AudioProbe
from speechmtp.data.validation.defects import (
    CheckOptions,
    Defect,
    Tables,
    errors_in,
    render_defects,
    speakers_of,
    utterance_rows,
)
from speechmtp.data.validation.ids import check_ids
from speechmtp.data.validation.leakage import check_leakage
from speechmtp.data.validation.lines import check_table
from speechmtp.data.validation.segments import check_segments, segments_of
from speechmtp.data.validation.text import check_text
from speechmtp.errors import DataError

__all__ = ["CheckOptions", "Defect", "check_contents", "errors_in", "render_defects", "validate"]


def validate(
    directory: str | Path, options: CheckOptions | None = None, probe: AudioProbe | None = None
) -> list[Defect]:
    """Every defect of the directory, sorted by file and line; nothing is changed, and no command runs unless allowed.
    DataError for a missing folder."""
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"{directory}: no such folder, a Kaldi data directory is expected")
    return check_contents(directory, read_contents(directory), options or CheckOptions(), probe)


def check_contents(
    directory: Path, contents: Mapping[str, bytes], options: CheckOptions, probe: AudioProbe | None = None
) -> list[Defect]:
    """The defects of tables given as bytes, as if they were the directory's files."""
    probe = probe or AudioProbe()
    tables: Tables = {}
    defects: list[Defect] = []
    skipped = {*([] if options.need_text else ["text"]), *([] if options.check_wav else ["wav.scp"])}
    for name in TABLES:
        if name in contents and name not in skipped:
            tables[name], found = check_table(name, directory / name, contents[name])
            defects += found
    if "text" in tables:
        defects += check_text(tables["text"], options)
    defects += check_ids(directory, tables, options)
    defects += _check_audio(directory, tables, options, probe)
    return sorted(defects, key=lambda defect: (defect.path, defect.line, defect.code))


def _check_audio(directory: Path, tables: Tables, options: CheckOptions, probe: AudioProbe) -> list[Defect]:
    """The defects of audio, segments and durations, and those shared with other sets."""
    recordings = tables.get("wav.scp")
    segment_table = tables.get("segments")
    segments = segments_of(segment_table)
    audio: dict[str, tuple[str, bool]] = {}
    lengths = _written_lengths(tables)
    true_lengths: dict[str, float] = {}
    defects: list[Defect] = []
    if recordings is not None:
        audio, defects = locate_audio(directory, recordings, options)
    if recordings is not None and options.audio != "none":
        facts, found = check_recordings(directory, recordings, audio, segments, options, probe)
        true_lengths = {key: fact.seconds for key, fact in facts.items()}
        defects += found
    lengths.update(true_lengths)
    if segment_table is not None:
        defects += check_segments(segment_table, recordings, lengths, speakers_of(tables))
    keys = utterance_rows(tables)
    known = lengths if segment_table is not None else true_lengths
    durations = true_durations(keys.first if keys else {}, segments, segment_table is not None, known)
    durations = {key: seconds for key, seconds in durations.items() if math.isfinite(seconds)}
    defects += check_durations(tables, durations, true_lengths)
    defects += check_speed(tables, durations)
    return defects + check_leakage(tables, audio, options, probe)


def _written_lengths(tables: Tables) -> dict[str, float]:
    """Recording -> seconds, from reco2dur."""
    table = tables.get("reco2dur")
    lengths = {}
    for key, row in table.first.items() if table is not None else ():
        seconds = parse_duration(row.value)
        if seconds is not None:
            lengths[key] = seconds
    return lengths
