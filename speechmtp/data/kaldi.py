"""Kaldi data directories: the utterances that their tables describe, read whole; nothing here runs a command.

Relative paths of wav.scp are taken from: the root given, else info.json's root, else the folder named by
SPEECHMTP_CORPORA where the file exists below it, else the data directory, else the working directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.data.locate import AudioResolver
from speechmtp.data.tables import byte_order, read_numbered, read_table, write_table
from speechmtp.errors import DataError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DataDir", "Utterance", "parse_segment", "read_data_dir", "read_table", "write_table"]

MAX_OVERSHOOT = 0.5  # seconds that a segment may end after its recording, as Kaldi's extract-segments has it
PIPE_SECONDS = 60.0  # time limit of a command


@dataclass(frozen=True)
class Utterance:
    """One utterance: where its audio is, which part of it, who speaks and what is said."""

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
        """The samples at `rate` Hz, float32 [N], mono; a command runs only with `allow_pipes`."""
        from speechmtp.audio.io import audio_info, read_audio

        if self.pipe:
            if not allow_pipes:
                raise DataError(f"{self.origin}: {self.audio!r} is a command and commands are off; allow pipes")
            samples = self._run(rate)
            end = self._checked_end(len(samples) / rate)
            last = None if end is None else int(end * rate + 0.5)
            return samples[int(self.start * rate + 0.5) : last]
        end = self.end
        if self.start or end is not None:
            info = audio_info(self.audio)
            end = self._checked_end(info.samples / info.rate)
        samples, _ = read_audio(self.audio, rate=rate, start=self.start, end=end, channel=self.channel)
        return samples

    def _run(self, rate: int) -> np.ndarray:
        """The whole output of the command at `rate` Hz, float32 [N]."""
        import io

        from speechmtp.audio.io import read_audio
        from speechmtp.audio.pipes import mend_wav_lengths, run_pipe

        stream = io.BytesIO(mend_wav_lengths(f"{self.audio} |", run_pipe(self.audio, PIPE_SECONDS)))
        stream.name = f"{self.origin}: {self.audio} |"
        return read_audio(stream, rate=rate, channel=self.channel)[0]

    def _checked_end(self, seconds: float) -> float | None:
        """The end within a recording of `seconds`; None when the segment reaches the recording's end."""
        if self.start >= seconds or (self.end is not None and self.end > seconds + MAX_OVERSHOOT):
            end = "its end" if self.end is None else f"{self.end:g} s"
            raise DataError(
                f"{self.origin}: segment {self.id} is {self.start:g} s to {end}, its recording lasts"
                f" {seconds:.3f} s; drop it with `speechmtp data validate --fix-drop`"
            )
        return None if self.end is None or self.end >= seconds else self.end


@dataclass(frozen=True)
class DataDir(Mapping[str, Utterance]):
    """A data directory read whole: a mapping from id to utterance, in byte order of the ids."""

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
        """Id -> text of the utterances that have one."""
        return {u.id: u.text for u in self.utterances if u.text is not None}

    @property
    def durations(self) -> dict[str, float]:
        """Id -> seconds of the utterances whose duration is on file."""
        return {u.id: u.duration for u in self.utterances if u.duration is not None}


def parse_segment(value: str, where: str) -> tuple[str, float, float | None, int | None]:
    """(recording, start, end, channel) of a segments value; end None stands for -1, to the end."""
    fields = value.split()
    if len(fields) not in (3, 4):
        raise DataError(f"{where}: {len(fields) + 1} fields, `utterance recording start end [channel]` is expected")
    try:
        start, end = float(fields[1]), float(fields[2])
        channel = int(fields[3]) if len(fields) == 4 else None
    except ValueError as error:
        raise DataError(f"{where}: {error}, seconds (and a channel number from 0) are expected") from error
    stop = None if end == -1 else end
    if not (0 <= start < float("inf")) or (stop is not None and not start < stop < float("inf")):
        raise DataError(f"{where}: segment from {start:g} to {end:g} s, 0 <= start < end (or end -1) is expected")
    return fields[0], start, stop, channel


def read_data_dir(
    path: str | Path,
    root: str | Path | None = None,
    need_text: bool = True,
    allow_pipes: bool = False,
    check_audio: bool = True,
) -> DataDir:
    """The directory's utterances in byte order of their ids; errors name file and line.

    `need_text` demands a transcript of every utterance, `allow_pipes` lets commands stand in wav.scp (none
    runs before `Utterance.load`), `check_audio` demands that the audio files exist. The order of lines does
    not matter.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder, a Kaldi data directory is expected")
    if not (path / "wav.scp").is_file():
        raise DataError(f"{path}: no wav.scp, a Kaldi data directory is expected")
    audio = _read_audio_table(path, AudioResolver(path, root), allow_pipes, check_audio)
    segments = _read_spans(path, audio)
    texts = _optional_table(path / "text", required=need_text)
    speakers = _optional_table(path / "utt2spk")
    durations = _read_durations(path / "utt2dur")
    _same_ids(path, segments, texts, "text")
    _same_ids(path, segments, speakers, "utt2spk")
    utterances = []
    for key in sorted(segments, key=byte_order):
        recording, start, end, channel, origin = segments[key]
        location, pipe = audio[recording][:2]
        duration = durations.get(key, end - start if end is not None else None)
        utterances.append(
            Utterance(
                id=key,
                audio=location,
                text=texts[key][0] if texts is not None else None,
                speaker=speakers[key][0].strip() if speakers is not None else None,
                start=start,
                end=end,
                channel=channel,
                duration=duration,
                pipe=pipe,
                origin=origin,
            )
        )
    return DataDir(path, tuple(utterances))


def _read_audio_table(
    path: Path, resolver: AudioResolver, allow_pipes: bool, check_audio: bool
) -> dict[str, tuple[str, bool, str]]:
    """Recording -> (path or command, is a command, origin)."""
    audio = {}
    for key, (value, number) in read_numbered(path / "wav.scp").items():
        where = f"{path / 'wav.scp'}:{number}"
        location, pipe = resolver.resolve(value, where, must_exist=check_audio)
        if pipe and not allow_pipes:
            raise DataError(f"{where}: {value!r} is a command and commands are off; allow pipes or give a file")
        audio[key] = (location, pipe, f"wav.scp:{number}")
    if not audio:
        raise DataError(f"{path / 'wav.scp'}: the file is empty, at least one recording is expected")
    return audio


def _read_spans(
    path: Path, audio: Mapping[str, tuple[str, bool, str]]
) -> dict[str, tuple[str, float, float | None, int | None, str]]:
    """Utterance -> (recording, start, end, channel, origin), from segments or one utterance a recording."""
    if not (path / "segments").is_file():
        return {key: (key, 0.0, None, None, origin) for key, (_, _, origin) in audio.items()}
    spans = {}
    for key, (value, number) in read_numbered(path / "segments").items():
        where = f"{path / 'segments'}:{number}"
        recording, start, end, channel = parse_segment(value, where)
        if recording not in audio:
            raise DataError(f"{where}: recording {recording!r} is not in wav.scp; add or drop it")
        spans[key] = (recording, start, end, channel, f"segments:{number}")
    return spans


def _optional_table(path: Path, required: bool = False) -> dict[str, tuple[str, int]] | None:
    """The numbered table, None when there is no such file and none is required."""
    return read_numbered(path) if required or path.is_file() else None


def _read_durations(path: Path) -> dict[str, float]:
    """Id -> seconds of utt2dur, empty without the file."""
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
    path: Path,
    spans: Mapping[str, tuple[str, float, float | None, int | None, str]],
    table: dict[str, tuple[str, int]] | None,
    name: str,
) -> None:
    """Raise unless the table has exactly the utterances that have audio."""
    if table is None or table.keys() == spans.keys():
        return
    missing = [key for key in spans if key not in table]
    extra = [key for key in table if key not in spans]
    if missing:
        where, what = f"{path}/{spans[missing[0]][4]}", f"{missing[0]!r} has no line in {name}"
    else:
        where, what = f"{path / name}:{table[extra[0]][1]}", f"{extra[0]!r} has no audio"
    raise DataError(
        f"{where}: {what} ({len(missing)} missing from {name}, {len(extra)} extra), the same ids are"
        " expected; run `speechmtp data validate --fix-drop` on the directory"
    )
