"""Lines of `segments`: the recording and times of each utterance."""

from __future__ import annotations

from dataclasses import dataclass

from speechmtp.errors import DataError

MAX_OVERSHOOT = 0.5  # seconds that a segment may end after its recording, as in Kaldi's extract-segments


@dataclass(frozen=True)
class Segment:
    """A part of a recording, from `start` to `end` in seconds; `end` None is the end of the recording.

    `channel` counts from 0; None is the mean of all channels.
    """

    recording: str
    start: float = 0.0
    end: float | None = None
    channel: int | None = None


def segment_of(fields: list[str]) -> Segment:
    """The segment of the fields `recording start end [channel]`; ValueError if the times are not numbers.

    An end of -1 is the end of the recording. The order of the times is not checked.
    """
    start, end = float(fields[1]), float(fields[2])
    channel = int(fields[3]) if len(fields) == 4 else None
    return Segment(fields[0], start, None if end == -1 else end, channel)


def parse_segment(value: str, where: str) -> Segment:
    """The segment of a line's value; DataError, starting with `where`, for a wrong number of fields or invalid
    times."""
    fields = value.split()
    if len(fields) not in (3, 4):
        raise DataError(f"{where}: {len(fields) + 1} fields, `utterance recording start end [channel]` is expected")
    try:
        segment = segment_of(fields)
    except ValueError as error:
        raise DataError(f"{where}: {error}, seconds (and a channel number from 0) are expected") from error
    start, end = segment.start, segment.end
    if not (0 <= start < float("inf")) or (end is not None and not start < end < float("inf")):
        shown = -1.0 if end is None else end
        raise DataError(f"{where}: segment from {start:g} to {shown:g} s, 0 <= start < end (or end -1) is expected")
    return segment
