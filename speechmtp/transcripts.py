"""Transcripts of recordings of any length and number: parts decoded in batches of like size, and put together again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from speechmtp.batching import batches_by_size
from speechmtp.errors import DataError
from speechmtp.types import Result, Trace, sum_traces

HELD = 256  # parts heard before any is decoded: enough to sort, and their memories stay below a gigabyte

T = TypeVar("T")
Note = Callable[[float], object]  # told how many more seconds of audio are done


@dataclass(frozen=True)
class Segment:
    """A part that was heard and decoded by itself, from `start` to `end` seconds of the recording.

    `tokens` are as the model said them, an end token last where one came. `mean_logprob` is the mean log probability of
    these under the trunk's distribution; None where it was not asked for, or no trunk was called. `flags` say what
    looks wrong: `empty`, `limit`, `repetition`.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = field(default=(), repr=False)
    mean_logprob: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """What was recognised of one recording; as a string, its text.

    `text` is that of the segments joined by a space, `language` the code of what is spoken, where the model knows,
    `trace` the counts of all segments together. `seconds` were spent in the decoder on every batch that had a
    segment of it, `listen_seconds` on features and encoder: neither counts where transcripts are compared.
    """

    text: str
    segments: tuple[Segment, ...] = ()
    language: str | None = None
    trace: Trace = field(default_factory=Trace, repr=False, hash=False)
    seconds: float = field(default=0.0, compare=False)
    listen_seconds: float = field(default=0.0, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text

    def __contains__(self, words: str) -> bool:
        """Whether the text has these words, as a string would say."""
        return words in self.text

    @property
    def tokens(self) -> tuple[int, ...]:
        """Those of all segments, one behind the other."""
        return tuple(token for segment in self.segments for token in segment.tokens)

    @property
    def flags(self) -> tuple[str, ...]:
        """What looks wrong in any segment; `empty` only where all of them are."""
        return self.trace.flags

    @property
    def audio_seconds(self) -> float:
        """How long the recording is."""
        return self.segments[-1].end if self.segments else 0.0


class Part(Protocol):
    """A part of a recording, heard and ready for decoding."""

    @property
    def size(self) -> int:
        """What batches are sorted by."""

    @property
    def audio_seconds(self) -> float:
        """How long it is."""

    @property
    def listen_seconds(self) -> float:
        """What was spent on hearing it."""

    @property
    def language(self) -> str | None:
        """The code of its language, where the model knows."""


P = TypeVar("P", bound=Part)


def join_parts(parts: Sequence[Part], results: Sequence[Result], seconds: float) -> Transcript:
    """The transcript of a recording's parts, in order; a single part's trace is kept as it is."""
    segments, start = [], 0.0
    for part, result in zip(parts, results):
        end, logprobs = start + part.audio_seconds, result.trace.logprobs
        mean = sum(logprobs) / len(logprobs) if logprobs else None
        segments.append(Segment(start, end, result.text, result.tokens, mean, result.trace.flags))
        start = end
    text = segments[0].text if len(segments) == 1 else " ".join(filter(None, (s.text.strip() for s in segments)))
    trace = results[0].trace if len(results) == 1 else _together([result.trace for result in results])
    listened = sum(part.listen_seconds for part in parts)
    return Transcript(text, tuple(segments), parts[0].language, trace, seconds, listened)


def _together(traces: Sequence[Trace]) -> Trace:
    """Counts and flags of the parts of one recording; it is `empty` only where all of them are."""
    flags = {flag for trace in traces for flag in trace.flags if flag != "empty"}
    flags |= {"empty"} if all("empty" in trace.flags for trace in traces) else set()
    gaps = [gap for trace in traces for gap in trace.gaps]
    logprobs = [value for trace in traces for value in trace.logprobs]
    return replace(sum_traces(traces), flags=tuple(sorted(flags)), gaps=gaps, logprobs=logprobs)


def gather(items: Iterable[T], parts: Callable[[T], int], min_parts: int = HELD) -> Iterator[list[T]]:
    """Lists of items that have at least `min_parts` parts together. What is raised instead of an item comes behind the
    items before it."""
    found: list[T] = []
    size = 0
    try:
        for item in items:
            found.append(item)
            size += parts(item)
            if size >= min_parts:
                full, found, size = found, [], 0
                yield full
    except Exception:
        if found:
            yield found
        raise
    if found:
        yield found


def decode_recordings(
    recordings: Sequence[Sequence[P]], decode: Callable[[list[P]], list[Result]], batch: int, note: Note | None = None
) -> list[Transcript]:
    """Recordings of parts, decoded in batches of at most `batch` parts of like size. `note` is told after every batch
    how many more seconds are done."""
    parts = [part for recording in recordings for part in recording]
    found: dict[int, tuple[int, Result]] = {}
    for number, rows in enumerate(batches_by_size([part.size for part in parts], batch)):
        results = decode([parts[i] for i in rows])
        found |= {i: (number, result) for i, result in zip(rows, results)}
        if note is not None:
            note(sum(parts[i].audio_seconds for i in rows))
    whole, first = [], 0
    for recording in recordings:
        mine = [found[i] for i in range(first, first + len(recording))]
        first += len(recording)
        seconds = sum({number: result.seconds for number, result in mine}.values())
        whole.append(join_parts(recording, [result for _, result in mine], seconds))
    return whole


def decode_each(
    heard: Iterable[Sequence[P] | DataError], decode: Callable[[list[P]], list[Result]], batch: int,
    note: Note | None = None,
) -> Iterator[Transcript | DataError]:  # fmt: skip
    """Transcripts of what is heard, in order, some `HELD` parts at a time; errors stay in their places."""
    for group in gather(heard, lambda one: 1 if isinstance(one, DataError) else max(1, len(one))):
        recordings = [one for one in group if not isinstance(one, DataError)]
        done = iter(decode_recordings(recordings, decode, batch, note))
        for one in group:
            yield one if isinstance(one, DataError) else next(done)
