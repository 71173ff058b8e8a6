"""Read Kaldi data directories as utterances; nothing here runs a command before `Utterance.load`.

Relative paths of wav.scp start from the given root, else from info.json's root, else from the folder named by
SPEECHMTP_CORPORA if the file exists below it, else from the data directory, else from the working directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.data.audio_paths import AudioResolver
from speechmtp.data.segments import MAX_OVERSHOOT, Segment, parse_segment
from speechmtp.data.tables import byte_order, read_numbered
from speechmtp.errors import DataError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Utterance:
    """One utterance: the location of its audio, its part of the recording, speaker and text."""

    id: str
    audio: str  # resolved path, or the command without the trailing bar
    text: str | None
    speaker: str | None
    start: float = 0.0  # seconds
    end: float | None = None  # seconds; None = to the end
    channel: int | None = None  # from 0; None = mix down
    duration: float | None = None  # seconds, from utt2dur or segments
    pipe: bool = False
    origin: str = ""  # as "wav.scp:12"

    def load(self, rate: int = 16000, allow_pipes: bool = False) -> np.ndarray:
        """Load the samples at `rate` Hz, float32 [N], mono. A command runs only with `allow_pipes`; a DataError
        otherwise, and for a segment outside its recording."""
        from speechmtp.audio.io import audio_info, read_audio, read_pipe

        if self.pipe:
            if not allow_pipes:
                raise DataError(f"{self.origin}: {self.audio!r} is a command and commands are off; allow pipes")
            samples, _ = read_pipe(self.audio, rate=rate, channel=self.channel, name=f"{self.origin}: {self.audio} |")
            end = self._checked_end(len(samples) / rate)
            last = None if end is None else int(end * rate + 0.5)
            return samples[int(self.start * rate + 0.5) : last]
        end = self.end
        if self.start or end is not None:
            info = audio_info(self.audio)
            end = self._checked_end(info.samples / info.rate)
        samples, _ = read_audio(self.audio, rate=rate, start=self.start, end=end, channel=self.channel)
        return samples

    def _checked_end(self, seconds: float) -> float | None:
        """The end within a recording of `seconds`; None if the segment reaches the recording's end."""
        if self.start >= seconds or (self.end is not None and self.end > seconds + MAX_OVERSHOOT):
            end = "its end" if self.end is None else f"{self.end:g} s"
            raise DataError(
                f"{self.origin}: segment {self.id} is {self.start:g} s to {end}, its recording lasts"
                f" {seconds:.3f} s; drop it with `speechmtp data validate --fix-drop`"
            )
        return None if self.end is None or self.end >= seconds else self.end


@dataclass(frozen=True)
class DataDir(Mapping[str, Utterance]):
    """A data directory in memory: a mapping from id to utterance, in byte order of the ids."""

    path: Path
    utterances: tuple[Utterance, ...]

    @cached_property
    def _by_id(self) -> dict[str, Utterance]:
        return {utterance.id: utterance for utterance in self.utterances}

    def __getitem__(self, key: str) -> Utterance:
        return self._by_id[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self.utterances)

    def transcripts(self) -> dict[str, str]:
        """Id -> text, for the utterances that have a text."""
        return {u.id: u.text for u in self.utterances if u.text is not None}

    def speakers(self) -> dict[str, str] | None:
        """Id -> speaker; None without utt2spk."""
        found = {u.id: u.speaker for u in self.utterances if u.speaker is not None}
        return found or None

    @property
    def durations(self) -> dict[str, float]:
        """Id -> seconds, for the utterances whose duration is known from utt2dur or segments."""
        return {u.id: u.duration for u in self.utterances if u.duration is not None}


def read_data_dir(
    path: str | Path,
    root: str | Path | None = None,
    need_text: bool = True,
    allow_pipes: bool = False,
    check_audio: bool = True,
) -> DataDir:
    """Read a directory's utterances in byte order of their ids; DataErrors name file and line.

    `need_text` requires a transcript of every utterance, `allow_pipes` permits commands in wav.scp (none runs before
    `Utterance.load`), `check_audio` requires that the audio files exist. The order of lines does not matter.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder, a Kaldi data directory is expected")
    if not (path / "wav.scp").is_file():
        raise DataError(f"{path}: no wav.scp, a Kaldi data directory is expected")
    audio = _read_audio(path, AudioResolver(path, root), allow_pipes, check_audio)
    segments = _read_segments(path, audio)
    texts = _optional_table(path / "text", required=need_text)
    speakers = _optional_table(path / "utt2spk")
    durations = _read_durations(path / "utt2dur")
    _same_ids(path, segments, texts, "text")
    _same_ids(path, segments, speakers, "utt2spk")
    utterances = []
    for key in sorted(segments, key=byte_order):
        segment, origin = segments[key]
        source = audio[segment.recording]
        written = None if segment.end is None else segment.end - segment.start
        utterances.append(
            Utterance(
                id=key,
                audio=source.location,
                text=texts[key][0] if texts is not None else None,
                speaker=speakers[key][0].strip() if speakers is not None else None,
                start=segment.start,
                end=segment.end,
                channel=segment.channel,
                duration=durations.get(key, written),
                pipe=source.pipe,
                origin=origin,
            )
        )
    return DataDir(path, tuple(utterances))


@dataclass(frozen=True)
class _Source:
    """Location of a recording's audio: a path, or a command if `pipe`; `origin` is its line, as `wav.scp:3`."""

    location: str
    pipe: bool
    origin: str


def _read_audio(path: Path, resolver: AudioResolver, allow_pipes: bool, check_audio: bool) -> dict[str, _Source]:
    """Recording -> location of its audio."""
    audio = {}
    for key, (value, number) in read_numbered(path / "wav.scp").items():
        where = f"{path / 'wav.scp'}:{number}"
        location, pipe = resolver.resolve(value, where, must_exist=check_audio)
        if pipe and not allow_pipes:
            raise DataError(f"{where}: {value!r} is a command and commands are off; allow pipes or give a file")
        audio[key] = _Source(location, pipe, f"wav.scp:{number}")
    if not audio:
        raise DataError(f"{path / 'wav.scp'}: the file is empty, at least one recording is expected")
    return audio


def _read_segments(path: Path, audio: Mapping[str, _Source]) -> dict[str, tuple[Segment, str]]:
    """Utterance -> (segment, its line); without a segments file every recording is one utterance."""
    if not (path / "segments").is_file():
        return {key: (Segment(key), source.origin) for key, source in audio.items()}
    segments = {}
    for key, (value, number) in read_numbered(path / "segments").items():
        where = f"{path / 'segments'}:{number}"
        segment = parse_segment(value, where)
        if segment.recording not in audio:
            raise DataError(f"{where}: recording {segment.recording!r} is not in wav.scp; add or drop it")
        segments[key] = (segment, f"segments:{number}")
    return segments


def _optional_table(path: Path, required: bool = False) -> dict[str, tuple[str, int]] | None:
    """The numbered table; None if the file does not exist and is not required."""
    return read_numbered(path) if required or path.is_file() else None


def _read_durations(path: Path) -> dict[str, float]:
    """Id -> seconds of utt2dur; empty without the file."""
    durations = {}
    for key, (value, number) in (_optional_table(path) or {}).items():
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise DataError(f"{path}:{number}: duration {value!r} of {key!r}, seconds above 0 are expected")
        durations[key] = seconds
    return durations


def _same_ids(
    path: Path, segments: Mapping[str, tuple[Segment, str]], table: dict[str, tuple[str, int]] | None, name: str
) -> None:
    """Raise a DataError unless the table has exactly the utterances that have audio."""
    if table is None or table.keys() == segments.keys():
        return
    missing = [key for key in segments if key not in table]
    extra = [key for key in table if key not in segments]
    if missing:
        where, what = f"{path}/{segments[missing[0]][1]}", f"{missing[0]!r} has no line in {name}"
    else:
        where, what = f"{path / name}:{table[extra[0]][1]}", f"{extra[0]!r} has no audio"
    raise DataError(
        f"{where}: {what} ({len(missing)} missing from {name}, {len(extra)} extra), the same ids are"
        " expected; run `speechmtp data validate --fix-drop` on the directory"
    )
