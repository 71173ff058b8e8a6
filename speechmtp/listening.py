"""Reads and encodes many recordings in order, each only when it is needed."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from speechmtp.audio.cut import Cutter
from speechmtp.audio.inputs import Audio, Recording, input_name, is_number, is_record
from speechmtp.crew import Crew
from speechmtp.errors import ConfigError, DataError
from speechmtp.progress import AudioProgress

AudioSource: TypeAlias = "Audio | Callable[[], Audio]"  # a function is called when its turn comes

OnError = Literal["raise", "return"]

AHEAD = 32  # parts read before their turn, besides one for each worker: some take ten times as long as others
AHEAD_SECONDS, LONG = 150.0, 25.0  # seconds of audio in those, besides a long part for each worker


class Part(Protocol):
    """A part of a recording that was encoded."""

    @property
    def audio_seconds(self) -> float:
        """Duration in seconds."""


P = TypeVar("P", bound=Part)


def sources_of(sources: Iterable[AudioSource]) -> Iterable[AudioSource]:
    """The sources unchanged; ConfigError for a single recording."""
    pair = isinstance(sources, tuple) and len(sources) == 2 and any(is_number(part) for part in sources)
    alone = isinstance(sources, str | bytes | bytearray | memoryview) or hasattr(sources, "read")
    if pair or alone or is_record(sources) or not hasattr(sources, "__iter__") or hasattr(sources, "__array__"):
        kind = sources if isinstance(sources, str) else getattr(sources, "name", type(sources).__name__)
        raise ConfigError(f"transcribe_many: {kind}, expected a list of recordings; a single one goes to transcribe")
    return sources


def noise_key_of(name: str) -> int:
    """The noise key of an utterance id: its sampling noise is the same in every data set, batch and job."""
    return zlib.crc32(name.encode(errors="surrogateescape"))


@dataclass
class _Source:
    """A recording that is read: its name for errors, the seconds for which progress counts it (None: it does not yet),
    and whether a part could not be encoded or it was given up."""

    name: str
    counted: float | None = None
    broken: bool = False
    given_up: bool = False


@dataclass(frozen=True)
class _Piece:
    """A part of a recording before it is encoded, or why there is none: samples [N], the noise key, and whether it is
    the last part."""

    source: _Source
    samples: np.ndarray | None = None
    noise_key: int = 0
    last: bool = True
    error: DataError | None = None


def listen_each(
    sources: Iterable[AudioSource], rate: float | None, target_rate: int, cutter: Callable[[], Cutter],
    listen: Callable[[np.ndarray, str, int], P], progress: AudioProgress, crew: Crew,
    names: Sequence[str] | None = None, noise_keys: Sequence[int] | None = None, raises: bool = True,
) -> Iterator[tuple[P, bool] | DataError]:  # fmt: skip
    """Read every source when its turn comes, in blocks, and yield its parts, encoded by `listen` in the workers of
    `crew`, each with whether it is its recording's last.

    `cutter` makes what cuts a recording at `target_rate` Hz; `listen` gets the samples of a part, the name for errors
    and the part's noise key. A source that cannot be read or encoded ends with a DataError in place of its next part
    (including an OSError or ValueError of a source that is a function); with `raises` that is the last item. `names`
    are what errors call the sources (default: paths, or a kind with a number). `noise_keys` are one per source, that of
    its first part (default: parts are numbered). ConfigError if either list is too short.
    """

    def heard(piece: _Piece) -> tuple[_Source, P | DataError | None, bool]:
        source = piece.source
        if piece.samples is None or source.broken:
            return source, piece.error, piece.last
        try:
            return source, listen(piece.samples, source.name, piece.noise_key), piece.last
        except DataError as error:
            source.broken = True
            return source, error, piece.last

    pieces = _read_each(sources, rate, target_rate, cutter, progress, names, noise_keys, raises)
    encoded = 0.0  # seconds of the present recording
    most = (AHEAD_SECONDS + LONG * crew.size) * target_rate
    for source, found, last in crew.map(heard, pieces, crew.size + AHEAD, weigh=_size, most=most):
        if source.given_up or found is None:
            continue
        if isinstance(found, DataError):
            source.given_up = True
            yield found
            progress.give_up(source.counted or 0.0, encoded)
            if raises:
                return
            encoded = 0.0
        else:
            progress.add(found.audio_seconds)
            yield found, last
            encoded = 0.0 if last else encoded + found.audio_seconds


def _size(piece: _Piece) -> int:
    """The samples of a part."""
    return 0 if piece.samples is None else len(piece.samples)


def _read_each(
    sources: Iterable[AudioSource], rate: float | None, target_rate: int, cutter: Callable[[], Cutter],
    progress: AudioProgress, names: Sequence[str] | None, noise_keys: Sequence[int] | None, raises: bool,
) -> Iterator[_Piece]:  # fmt: skip
    """Read the sources and yield their parts in order; with `raises` up to the first error."""
    count = 0
    for number, given in enumerate(sources):
        for what, some in (("names", names), ("noise_keys", noise_keys)):
            if some is not None and number >= len(some):
                raise ConfigError(f"transcribe_many: {len(some)} {what} for more recordings; give one for each")
        source = _Source(names[number] if names is not None else _name(given, number))
        key = noise_keys[number] if noise_keys is not None else count
        parts = 0
        try:
            audio = _called(given, source.name) if callable(given) else given
            for samples, last in _cut(Recording(audio, target_rate, rate, source.name), cutter(), source, progress):
                yield _Piece(source, samples, key + parts, last)
                parts += 1
        except DataError as error:
            yield _Piece(source, error=error)
            if raises:
                return
            continue
        count += parts
    progress.all_read()


def _cut(
    recording: Recording, cutter: Cutter, source: _Source, progress: AudioProgress
) -> Iterator[tuple[np.ndarray, bool]]:
    """The parts of a recording, each with whether it is the last; progress counts as read what the recording tells of,
    and in the end what it has."""
    ready: list[np.ndarray] = []  # the newest part, which may be the last
    for block in recording:
        if source.counted is None and recording.seconds is not None:
            source.counted = recording.seconds
            progress.read(source.counted)
        ready += [part.samples for part in cutter.push(block)]
        while len(ready) > 1:
            yield ready.pop(0), False
    ready += [part.samples for part in cutter.finish()]
    assert recording.seconds is not None and source.counted is not None
    progress.correct(recording.seconds - source.counted, source.given_up)
    source.counted = recording.seconds
    for place, samples in enumerate(ready):
        yield samples, place + 1 == len(ready)


def _called(source: Callable[[], Audio], name: str) -> Audio:
    """The audio that a function returns; its OSError or ValueError becomes a DataError."""
    try:
        return source()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{name}: not to be had ({reason}); look at the function that reads it") from error


def _name(source: AudioSource, number: int) -> str:
    name = "source" if callable(source) else input_name(source)
    return f"{name}[{number}]" if name in ("audio", "bytes", "source", "stream") else name
