"""Checks of segments (E23 to E27): times, recordings, overlaps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from speechmtp.data.segments import MAX_OVERSHOOT, Segment, segment_of
from speechmtp.data.validation.defects import DROP, WARN, Defect, Row, Table

MIN_SECONDS = 0.1  # seconds


def segments_of(table: Table | None) -> dict[str, Segment]:
    """Utterance -> segment, for lines whose times are numbers, whatever their order; empty without a table."""
    segments = {}
    for key, row in table.first.items() if table is not None else ():
        segment = _parse(row)
        if segment is not None:
            segments[key] = segment
    return segments


def _parse(row: Row) -> Segment | None:
    """The segment of a line; None if its fields are invalid."""
    if not row.sound:
        return None
    try:
        return segment_of(row.fields)
    except ValueError:
        return None


def check_segments(
    table: Table,
    recordings: Table | None,
    lengths: Mapping[str, float],
    speakers: Mapping[str, str],
) -> list[Defect]:
    """The defects of segments; `lengths` has the known durations of recordings in seconds."""
    defects = []
    good: list[tuple[Row, Segment]] = []
    for row in table.rows:
        if not row.sound:
            continue
        segment = _parse(row)
        found = _check_times(table.path, row, segment, recordings, lengths)
        defects += found
        if segment is not None and not any(defect.code == "E23" for defect in found):
            good.append((row, segment))
    return defects + _check_overlaps(table.path, good, speakers)


def _check_times(
    path: str, row: Row, segment: Segment | None, recordings: Table | None, lengths: Mapping[str, float]
) -> list[Defect]:
    """The defects of one line."""

    def defect(code: str, text: str, fix: str = DROP) -> Defect:
        return Defect(code, path, row.line, f"segment {row.key!r} {text}", fix, row.key)

    found = []
    recording = row.fields[0]
    if recordings is not None and recording not in recordings.first:
        found.append(defect("E26", f"is of the unknown recording {recording!r}"))
    if segment is None or not math.isfinite(segment.start) or not math.isfinite(segment.end or 0.0):
        return [*found, defect("E23", f"has times {' '.join(row.fields[1:])!r}, numbers are expected")]
    if segment.start < 0:
        return [*found, defect("E23", f"starts at {segment.start:g} s, before 0")]
    if segment.end is not None and segment.end <= segment.start:
        return [*found, defect("E23", f"ends at {segment.end:g} s, not after its start {segment.start:g} s")]
    length = lengths.get(segment.recording)
    end = segment.end if segment.end is not None else length
    if length is not None and segment.end is not None and segment.end > length:
        late = segment.end - length
        text = f"ends {late:.3f} s after its recording ({length:.3f} s)"
        found.append(defect("E24", text, DROP if late > MAX_OVERSHOOT else WARN))
        end = length
    if end is not None and end - segment.start < MIN_SECONDS - 1e-9:
        text = f"has {max(0.0, end - segment.start):.3f} s, at least {MIN_SECONDS} s is expected"
        found.append(defect("E25", text))
    return found


def _check_overlaps(path: str, rows: list[tuple[Row, Segment]], speakers: Mapping[str, str]) -> list[Defect]:
    """E27 for overlapping segments of one recording, speaker and channel."""
    lanes: dict[tuple[str, int | None, str], list[tuple[Row, Segment]]] = {}
    for row, segment in rows:
        lanes.setdefault((segment.recording, segment.channel, speakers.get(row.key, "")), []).append((row, segment))
    defects = []
    for lane in lanes.values():
        lane.sort(key=lambda item: item[1].start)
        for (before, first), (row, second) in pairwise(lane):
            if first.end is None or second.start < first.end - 1e-9:
                text = f"segment {row.key!r} overlaps {before.key!r} (line {before.line}) of its speaker"
                defects.append(Defect("E27", path, row.line, text, WARN, row.key))
    return defects
