"""Facts about audio files for validation; each file is read once."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path

from speechmtp.audio.archives import source_at
from speechmtp.errors import SpeechMTPError


@dataclass(frozen=True)
class AudioFacts:
    """What a file holds and, if it was decoded, measurements of its mono samples in [-1, 1]."""

    rate: int = 0
    channels: int = 0
    samples: int = 0  # per channel, counted
    error: str | None = None  # why it cannot be read
    decoded: int | None = None  # number of decoded samples
    peak: float = 1.0
    clipped: float = 0.0  # share of samples at full scale
    offset: float = 0.0  # mean

    @property
    def seconds(self) -> float:
        """Duration by the decoded samples, else as counted."""
        return (self.samples if self.decoded is None else self.decoded) / self.rate


class AudioProbe:
    """Counts or reads samples, each file once; a second pass over a directory uses the cache."""

    def __init__(self) -> None:
        """A probe that has read nothing yet."""
        self._facts: dict[tuple[str, bool], AudioFacts] = {}
        self._digests: dict[str, str] = {}

    def facts(self, location: str, pipe: bool, decode: bool) -> AudioFacts:
        """The facts of a file or, with `pipe`, of a command's output (the command is run)."""
        key = (location, decode)
        if key not in self._facts:
            try:
                self._facts[key] = _decode(location, pipe) if decode else _header(location)
            except (SpeechMTPError, OSError) as error:
                self._facts[key] = AudioFacts(error=str(error))
        return self._facts[key]

    def size(self, location: str) -> int | None:
        """Number of bytes of a file or archive entry; None if it cannot be read."""
        try:
            with _bytes_at(location) as stream:
                return stream.seek(0, os.SEEK_END)
        except (SpeechMTPError, OSError):
            return None

    def digest(self, location: str) -> str:
        """SHA-256 of the bytes of a file or archive entry."""
        if location not in self._digests:
            with _bytes_at(location) as stream:
                self._digests[location] = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._digests[location]


def _bytes_at(location: str) -> io.BufferedReader | io.BytesIO:
    """The bytes of a file or archive entry."""
    source = source_at(location)
    return open(source, "rb") if isinstance(source, str | Path) else source


def _header(path: str) -> AudioFacts:
    """Facts without the samples."""
    from speechmtp.audio.io import audio_info

    info = audio_info(path)
    return AudioFacts(info.rate, info.channels, info.samples)


def _decode(location: str, pipe: bool) -> AudioFacts:
    """Facts with the samples."""
    import numpy as np

    from speechmtp.audio.io import read_audio, read_pipe

    if pipe:
        samples, rate = read_pipe(location, rate=None)
        facts = AudioFacts(rate, 1, len(samples))
    else:
        facts = _header(location)
        if facts.samples == 0:
            return facts
        samples, _ = read_audio(location, rate=None)
    return replace(
        facts,
        decoded=len(samples),
        peak=float(np.abs(samples).max()),
        clipped=float(np.mean(np.abs(samples) >= 0.999)),
        offset=float(samples.mean()),
    )
