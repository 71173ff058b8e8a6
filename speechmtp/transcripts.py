"""Transcripts of many recordings of any length: parts are decoded in batches of similar size and then joined."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from speechmtp.batching import batches_by_size, rows_for
from speechmtp.crew import Crew
from speechmtp.errors import DataError
from speechmtp.heap import give_back
from speechmtp.types import Result, Trace, sum_traces
from speechmtp.words.group import WordTokens
from speechmtp.words.segments import PAUSE, cut_at_pauses
from speechmtp.words.word import Word, word_spans

# Parts, and seconds of audio, that are encoded before any of them is decoded: enough to sort by size, with encoder
# outputs below a gigabyte.
HELD, HELD_SECONDS = 256, 600.0

T = TypeVar("T")
Note = Callable[[float], object]  # called with how many more seconds of audio are done


@dataclass(frozen=True)
class Segment:
    """A part of a recording that was encoded and decoded separately, from `start` to `end` in seconds; where words were
    requested, as much of it as a pause behind a sentence ends.

    `tokens` are the emitted tokens, with an end token last if one came. `mean_logprob` is their mean log probability
    under the trunk's distribution; None where it was not requested, or the trunk was not called. `flags` name suspected
    problems of the part: `empty`, `limit`, `repetition`. `words` are timed from the beginning of the recording.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = field(default=(), repr=False)
    mean_logprob: float | None = None
    flags: tuple[str, ...] = ()
    words: tuple[Word, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Transcript:
    """The transcript of one recording; `str` gives its text.

    `text` is that of the parts joined by spaces, `language` the code of the spoken language where the model knows
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
    def words(self) -> tuple[Word, ...]:
        """The words of all segments, in order; none where they were not requested."""
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of all segments; `empty` only if every segment is empty."""
        return self.trace.flags

    @property
    def audio_seconds(self) -> float:
        """Duration of the recording in seconds."""
        return self.segments[-1].end if self.segments else 0.0


class Heard(Protocol):
    """What a transcript tells of a part of a recording besides its result."""

    @property
    def audio_seconds(self) -> float:
        """Duration in seconds."""

    @property
    def listen_seconds(self) -> float:
        """Seconds spent on features and encoder."""

    @property
    def language(self) -> str | None:
        """The code of the spoken language, where the model knows it."""


class Part(Heard, Protocol):
    """A part of a recording that is encoded and ready to decode."""

    @property
    def size(self) -> int:
        """The number by which batches are sorted."""


P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class TimedWords:
    """The words of a decoded part, timed from its beginning, and the tokens of each."""

    words: tuple[Word, ...]
    tokens: tuple[WordTokens, ...]


@dataclass(frozen=True)
class Timing(Generic[P]):
    """How words are timed: `find` gives those of a part and its result, and segments end where a pause behind a
    sentence takes at least `pause` seconds."""

    find: Callable[[P, Result], TimedWords]
    pause: float = PAUSE


def join_parts(
    parts: Sequence[Heard], results: Sequence[Result], seconds: float, words: Sequence[TimedWords] | None = None,
    pause: float = PAUSE, start: float = 0.0,
) -> Transcript:  # fmt: skip
    """The transcript of a recording from its parts in order, the first of which begins at `start` seconds; a single
    part keeps its trace unchanged. `seconds` is the decoder time. With the `words` of every part, parts are cut into
    segments at pauses."""
    segments = []
    for number, (part, result) in enumerate(zip(parts, results)):
        whole = _segment(result, start, start + part.audio_seconds)
        segments += [whole] if words is None else _cut(whole, result, words[number], pause)
        start = whole.end
    texts = [result.text for result in results]
    text = texts[0] if len(texts) == 1 else " ".join(filter(None, (one.strip() for one in texts)))
    trace = results[0].trace if len(results) == 1 else _together([result.trace for result in results])
    listened = sum(part.listen_seconds for part in parts)
    return Transcript(text, tuple(segments), parts[0].language, trace, seconds, listened)


def _segment(
    result: Result, start: float, end: float, text: str | None = None, first: int = 0, last: int | None = None
) -> Segment:
    """The segment of a result's tokens from `first` to `last` - 1."""
    logprobs = result.trace.logprobs[first:last]
    mean = sum(logprobs) / len(logprobs) if logprobs else None
    text = result.text if text is None else text
    return Segment(start, end, text, result.tokens[first:last], mean, result.trace.flags)


def _cut(whole: Segment, result: Result, timed: TimedWords, pause: float) -> list[Segment]:
    """A part's segments, cut at pauses."""
    spans = word_spans(result.text, [word.text for word in timed.words])
    cuts = cut_at_pauses(timed.words, pause)
    found, word, first, start = list[Segment](), 0, 0, whole.start
    for place, seconds in [*cuts, (len(timed.words) - 1, whole.end - whole.start)]:
        is_last = place + 1 == len(timed.words)
        last = None if is_last else max(timed.tokens[place].last, first)
        text = result.text[spans[word][0] : spans[place][1]] if cuts else result.text
        one = _segment(result, start, whole.end if is_last else whole.start + seconds, text, first, last)
        words = tuple(each.moved(whole.start) for each in timed.words[word : place + 1])
        found.append(replace(one, words=words))
        word, first, start = place + 1, last or 0, one.end
    return found


def _together(traces: Sequence[Trace]) -> Trace:
    """Counts and flags of the parts of one recording; it is `empty` only if every part is."""
    flags = {flag for trace in traces for flag in trace.flags if flag != "empty"}
    flags |= {"empty"} if all("empty" in trace.flags for trace in traces) else set()
    gaps = [gap for trace in traces for gap in trace.gaps]
    logprobs = [value for trace in traces for value in trace.logprobs]
    return replace(sum_traces(traces), flags=tuple(sorted(flags)), gaps=gaps, logprobs=logprobs)


@dataclass(frozen=True)
class _Decoded:
    """A part that was decoded, without what the encoder made of it. `batch` is the same object for all of a batch."""

    audio_seconds: float
    listen_seconds: float
    language: str | None
    result: Result
    batch: object
    words: TimedWords | None = None


def decode_parts(
    parts: Sequence[P], decode: Callable[[list[P]], list[Result]], batch: int, crew: Crew, note: Note | None = None,
    timing: Timing[P] | None = None,
) -> list[_Decoded]:  # fmt: skip
    """Decode parts in batches of at most `batch` of similar size: fewer where a worker of `crew` would have none, and
    those of the longest parts first, so that no worker is left with them. `note` is called after every batch with the
    seconds of audio that it decoded. `timing` times their words."""
    batches = batches_by_size([part.size for part in parts], rows_for(len(parts), batch, crew.size))[::-1]

    def work(rows: list[int]) -> list[tuple[Result, TimedWords | None]]:
        mine = [parts[i] for i in rows]
        results = decode(mine)
        return [(one, None if timing is None else timing.find(part, one)) for part, one in zip(mine, results)]

    found: dict[int, _Decoded] = {}
    for rows, results in zip(batches, crew.map(work, batches, first=True)):
        mark = object()
        for i, (result, words) in zip(rows, results):
            part = parts[i]
            found[i] = _Decoded(part.audio_seconds, part.listen_seconds, part.language, result, mark, words)
        if note is not None:
            note(sum(parts[i].audio_seconds for i in rows))
    return [found[i] for i in range(len(parts))]


def decode_each(
    heard: Iterable[tuple[P, bool] | DataError], decode: Callable[[list[P]], list[Result]], batch: int, crew: Crew,
    note: Note | None = None, timing: Timing[P] | None = None,
) -> Iterator[Transcript | DataError]:  # fmt: skip
    """Transcripts of recordings in order from their encoded parts, each with whether it is its recording's last.

    Parts are decoded by `crew` as soon as `HELD` or `HELD_SECONDS` of them are there, those of a long recording in
    several groups. A DataError takes the place of its recording, of which nothing more is decoded; `note` is then
    called with less than none, the seconds decoded before. An exception of `heard` is raised after the transcripts
    before it.
    """
    waiting: list[tuple[P, bool] | DataError] = []
    pause = PAUSE if timing is None else timing.pause
    seconds, begun = 0.0, list[_Decoded]()  # what is decoded of the recording that is not complete

    def decoded() -> Iterator[Transcript | DataError]:
        group = [one for one in waiting if not isinstance(one, DataError)]
        done = iter(decode_parts([part for part, _ in group], decode, batch, crew, note, timing))
        for one in waiting:
            if isinstance(one, DataError):
                yield one
                continue
            begun.append(next(done))
            if one[1]:
                yield _joined(begun, pause)
                begun.clear()
        waiting.clear()

    def give_up() -> None:
        """Forget the parts of the recording that is not complete."""
        while waiting and not isinstance(last := waiting[-1], DataError) and not last[1]:
            waiting.pop()
        if not waiting and begun:
            if note is not None:
                note(-sum(part.audio_seconds for part in begun))
            begun.clear()

    failure: list[Exception] = []
    for one in _until_failure(heard, failure):
        if isinstance(one, DataError):
            give_up()
        else:
            seconds += one[0].audio_seconds
        waiting.append(one)
        if len(waiting) >= HELD or seconds >= HELD_SECONDS:
            seconds = 0.0
            yield from decoded()
            give_back()
    if failure:
        give_up()
    yield from decoded()
    if failure:
        raise failure[0]


def _until_failure(items: Iterable[T], failure: list[Exception]) -> Iterator[T]:
    """The items; the exception that they raise is put into `failure`."""
    try:
        yield from items
    except Exception as error:
        failure.append(error)


def _joined(parts: Sequence[_Decoded], pause: float) -> Transcript:
    """The transcript of a recording of decoded parts."""
    seconds = sum({one.batch: one.result.seconds for one in parts}.values())
    words = [one.words for one in parts if one.words is not None]
    return join_parts(parts, [one.result for one in parts], seconds, words or None, pause)
