"""Recordings of any length and number: parts decoded in batches of like size, and put together again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from speechmtp.types import Request, Result, Trace, sum_traces

BATCH = 16  # parts decoded together
HELD = 256  # parts heard before any is decoded: enough to sort, and their memories stay below a gigabyte

T = TypeVar("T")
Note = Callable[[float], object]  # told how many more seconds of audio are done


@dataclass(frozen=True)
class Recording(Result):
    """What was recognised of one recording: texts of its `parts` joined by a space, their tokens one behind the other,
    counts and flags of all of them together. `spans` are the parts' seconds [from, to); `seconds` are those of every
    batch that had a part of it."""

    parts: tuple[Result, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()


def joined(parts: Sequence[Result], lengths: Sequence[float], seconds: float) -> Recording:
    """A recording of parts of so many seconds, in order; a single part's trace is kept as it is."""
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    spans = tuple(zip([0.0, *ends], ends))
    text = " ".join(filter(None, (part.text.strip() for part in parts)))
    tokens = tuple(token for part in parts for token in part.tokens)
    if len(parts) == 1:
        return Recording(parts[0].text, tokens, parts[0].trace, seconds, tuple(parts), spans)
    return Recording(text, tokens, _together([part.trace for part in parts]), seconds, tuple(parts), spans)


def _together(traces: Sequence[Trace]) -> Trace:
    """Counts and flags of the parts of one recording; it is `empty` only where all of them are."""
    flags = {flag for trace in traces for flag in trace.flags if flag != "empty"}
    flags |= {"empty"} if all("empty" in trace.flags for trace in traces) else set()
    gaps = [gap for trace in traces for gap in trace.gaps]
    return replace(sum_traces(traces), flags=tuple(sorted(flags)), gaps=gaps)


def held(items: Iterable[T], parts: Callable[[T], int], most: int = HELD) -> Iterator[list[T]]:
    """Items gathered until they have at least `most` parts."""
    found: list[T] = []
    for item in items:
        found.append(item)
        if sum(map(parts, found)) >= most:
            yield found
            found = []
    if found:
        yield found


def decode_recordings(
    recordings: Sequence[Sequence[Request]], decode: Callable[[list[Request]], list[Result]], batch: int,
    note: Note | None = None,
) -> list[Recording]:  # fmt: skip
    """Recordings of parts, decoded in batches of at most `batch` parts of like size. `note` is told after every
    batch."""
    parts = [part for recording in recordings for part in recording]
    order = sorted(range(len(parts)), key=lambda i: parts[i].size)
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    found: dict[int, tuple[int, Result]] = {}
    for number, rows in enumerate(batches):
        results = decode([parts[i] for i in rows])
        found |= {i: (number, result) for i, result in zip(rows, results)}
        if note is not None:
            note(sum(parts[i].audio_seconds for i in rows))
    whole, first = [], 0
    for recording in recordings:
        mine = [found[i] for i in range(first, first + len(recording))]
        first += len(recording)
        seconds = sum({number: result.seconds for number, result in mine}.values())
        whole.append(joined([result for _, result in mine], [part.audio_seconds for part in recording], seconds))
    return whole
