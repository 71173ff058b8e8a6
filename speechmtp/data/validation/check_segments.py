"""Checks of segments (E23 to E27): times, recordings, overlaps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from speechmtp.data.kaldi import MAX_OVERSHOOT
from speechmtp.data.validation.defects import DROP, WARN, Defect, Row, Table

SHORTEST = 0.1  # seconds


@dataclass(frozen=True)
class Span:
    """A sound segments line; `end` None = to the end of the recording."""

    recording: str
    start: float
    end: float | None
    channel: int | None


def spans_of(table: Table | None) -> dict[str, Span]:
    """Utterance -> span of every line whose times are numbers."""
    spans = {}
    for key, row in table.first.items() if table is not None else ():
        span = _parse(row)
        if span is not None:
            spans[key] = span
    return spans


def _parse(row: Row) -> Span | None:
    """The span of a line, None where its fields are no times."""
    if not row.sound:
        return None
    fields = row.fields
    try:
        start, end = float(fields[1]), float(fields[2])
        channel = int(fields[3]) if len(fields) == 4 else None
    except ValueError:
        return None
    return Span(fields[0], start, None if end == -1 else end, channel)


def check_segments(
    table: Table,
    recordings: Table | None,
    lengths: Mapping[str, float],
    speakers: Mapping[str, str],
) -> list[Defect]:
    """The defects of segments; `lengths` has the seconds of the recordings that are known."""
    defects = []
    good: list[tuple[Row, Span]] = []
    for row in table.rows:
        if not row.sound:
            continue
        span = _parse(row)
        found = _check_span(table.path, row, span, recordings, lengths)
        defects += found
        if span is not None and not any(defect.code == "E23" for defect in found):
            good.append((row, span))
    return defects + _check_overlaps(table.path, good, speakers)


def _check_span(
    path: str, row: Row, span: Span | None, recordings: Table | None, lengths: Mapping[str, float]
) -> list[Defect]:
    """The defects of one line."""

    def defect(code: str, text: str, fix: str = DROP) -> Defect:
        return Defect(code, path, row.line, f"segment {row.key!r} {text}", fix, row.key)

    found = []
    recording = row.fields[0]
    if recordings is not None and recording not in recordings.first:
        found.append(defect("E26", f"is of the unknown recording {recording!r}"))
    if span is None or not math.isfinite(span.start) or not math.isfinite(span.end or 0.0):
        return [*found, defect("E23", f"has times {' '.join(row.fields[1:])!r}, numbers are expected")]
    if span.start < 0:
        return [*found, defect("E23", f"starts at {span.start:g} s, before 0")]
    if span.end is not None and span.end <= span.start:
        return [*found, defect("E23", f"ends at {span.end:g} s, not after its start {span.start:g} s")]
    length = lengths.get(span.recording)
    end = span.end if span.end is not None else length
    if length is not None and span.end is not None and span.end > length:
        late = span.end - length
        text = f"ends {late:.3f} s after its recording ({length:.3f} s)"
        found.append(defect("E24", text, DROP if late > MAX_OVERSHOOT else WARN))
        end = length
    if end is not None and end - span.start < SHORTEST - 1e-9:
        text = f"has {max(0.0, end - span.start):.3f} s, at least {SHORTEST} s is expected"
        found.append(defect("E25", text))
    return found


def _check_overlaps(path: str, rows: list[tuple[Row, Span]], speakers: Mapping[str, str]) -> list[Defect]:
    """E27 for segments of one speaker and channel that share time."""
    lanes: dict[tuple[str, int | None, str], list[tuple[Row, Span]]] = {}
    for row, span in rows:
        lanes.setdefault((span.recording, span.channel, speakers.get(row.key, "")), []).append((row, span))
    defects = []
    for lane in lanes.values():
        lane.sort(key=lambda item: item[1].start)
        for (before, first), (row, second) in pairwise(lane):
            if first.end is None or second.start < first.end - 1e-9:
                text = f"segment {row.key!r} overlaps {before.key!r} (line {before.line}) of its speaker"
                defects.append(Defect("E27", path, row.line, text, WARN, row.key))
    return defects
