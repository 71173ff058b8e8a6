"""Transcripts of many recordings of any length: parts are decoded in batches of similar size and then joined."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from speechmtp.batching import batches_by_size, rows_for
from speechmtp.crew import Crew
from speechmtp.errors import DataError
from speechmtp.types import Result, Trace, sum_traces

HELD = 256  # parts encoded before any is decoded: enough to sort by size, with encoder outputs below a gigabyte

T = TypeVar("T")
Note = Callable[[float], object]  # called with how many more seconds of audio are done


@dataclass(frozen=True)
class Segment:
    """A part of a recording that was encoded and decoded separately, from `start` to `end` in seconds.

    `tokens` are the emitted tokens, with an end token last if one came. `mean_logprob` is their mean log probability
    under the trunk's distribution; None where it was not requested, or the trunk was not called. `flags` name suspected
    problems: `empty`, `limit`, `repetition`.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = field(default=(), repr=False)
    mean_logprob: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """The transcript of one recording; `str` gives its text.

    `text` is that of the segments joined by spaces, `language` the code of the spoken language where the model knows
    it, and `trace` the counts of all segments together. `seconds` is the decoder time of every batch that had a segment
    of the recording, `listen_seconds` the time for features and encoder; neither counts where transcripts are compared.
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
        """Whether the text contains `words`."""
        return words in self.text

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of all segments, in order."""
        return tuple(token for segment in self.segments for token in segment.tokens)

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of all segments; `empty` only if every segment is empty."""
        return self.trace.flags

    @property
    def audio_seconds(self) -> float:
        """Duration of the recording in seconds."""
        return self.segments[-1].end if self.segments else 0.0


class Part(Protocol):
    """A part of a recording that is encoded and ready to decode."""

    @property
    def size(self) -> int:
        """The number by which batches are sorted."""

    @property
    def audio_seconds(self) -> float:
        """Duration in seconds."""

    @property
    def listen_seconds(self) -> float:
        """Seconds spent on features and encoder."""

    @property
    def language(self) -> str | None:
        """The code of the spoken language, where the model knows it."""


P = TypeVar("P", bound=Part)


def join_parts(parts: Sequence[Part], results: Sequence[Result], seconds: float) -> Transcript:
    """The transcript of a recording from its parts in order; a single part keeps its trace unchanged. `seconds` is the
    decoder time."""
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
    """Counts and flags of the parts of one recording; it is `empty` only if every part is."""
    flags = {flag for trace in traces for flag in trace.flags if flag != "empty"}
    flags |= {"empty"} if all("empty" in trace.flags for trace in traces) else set()
    gaps = [gap for trace in traces for gap in trace.gaps]
    logprobs = [value for trace in traces for value in trace.logprobs]
    return replace(sum_traces(traces), flags=tuple(sorted(flags)), gaps=gaps, logprobs=logprobs)


def gather(items: Iterable[T], parts: Callable[[T], int], min_parts: int = HELD) -> Iterator[list[T]]:
    """Group items into lists that have at least `min_parts` parts together. An exception raised by `items` is raised
    after the items before it were yielded."""
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
    recordings: Sequence[Sequence[P]], decode: Callable[[list[P]], list[Result]], batch: int, crew: Crew,
    note: Note | None = None,
) -> list[Transcript]:  # fmt: skip
    """Transcripts of recordings (lists of parts), decoded in batches of at most `batch` parts of similar size: fewer
    where a worker of `crew` would have none, and those of the longest parts first, so that no worker is left with
    them. `note` is called after every batch with the seconds of audio that it decoded."""
    parts = [part for recording in recordings for part in recording]
    batches = batches_by_size([part.size for part in parts], rows_for(len(parts), batch, crew.size))[::-1]
    found: dict[int, tuple[int, Result]] = {}
    done = crew.map(lambda rows: decode([parts[i] for i in rows]), batches, first=True)
    for number, (rows, results) in enumerate(zip(batches, done)):
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
    heard: Iterable[Sequence[P] | DataError], decode: Callable[[list[P]], list[Result]], batch: int, crew: Crew,
    note: Note | None = None,
) -> Iterator[Transcript | DataError]:  # fmt: skip
    """Transcripts of encoded recordings in order, decoded by `crew` in groups of at least `HELD` parts; errors stay in
    their places."""
    for group in gather(heard, lambda one: 1 if isinstance(one, DataError) else max(1, len(one))):
        recordings = [one for one in group if not isinstance(one, DataError)]
        done = iter(decode_recordings(recordings, decode, batch, crew, note))
        for one in group:
            yield one if isinstance(one, DataError) else next(done)
