"""Audio of MP4 and Matroska files (m4a, mp4, mov, webm, mkv), by PyAV, a packet at a time."""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from speechmtp.audio.resampling import StreamResampler
from speechmtp.errors import DataError, UnreadableError

KNOWN = "m4a, mp4, mov, webm, mkv"
_MATROSKA = bytes.fromhex("1a45dfa3")
_TOLERANCE = 0.5  # seconds: what encoders put before and behind the audio is counted by some containers
_ALIGNED = 1 << 12  # samples that are averaged at a time, at least


def media_format(head: bytes) -> str:
    """FFmpeg's name of the container that begins with `head`, at least 12 bytes; empty for any other."""
    if head[:4] == _MATROSKA:
        return "matroska"
    return "mov" if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip") else ""


def media_blocks(
    file: BinaryIO, rate: int, name: str, check: Callable[[int, int, float], object]
) -> Iterator[np.ndarray]:
    """The first audio track of a file as float32 mono blocks [n] at `rate` Hz; channels are averaged.

    `check` is called first with the track's own rate, its channels and its seconds (0 if nothing tells), and may raise
    a DataError. UnreadableError for another container, for one without audio and without PyAV; DataError for a file
    that is damaged or cut short.
    """
    file.seek(0)
    kind = media_format(file.read(12))
    file.seek(0)
    if not kind:
        raise UnreadableError(f"{name}: no container that is known, expected one of {KNOWN}; convert it")
    try:
        import av
        import av.error
    except ImportError as error:
        raise UnreadableError(
            f"{name}: {KNOWN} are read through PyAV, which is not there; pip install 'speechmtp[server]'"
        ) from error
    try:
        # No other format is tried: some are lists of files to read.
        with av.open(file, format=kind, metadata_errors="ignore") as container:
            yield from _blocks(container, rate, name, check)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        reason = " ".join(str(getattr(error, "strerror", "") or error).split())
        raise UnreadableError(
            f"{name}: unreadable ({reason}), expected a whole file of {KNOWN}; copy it anew"
        ) from error


def _blocks(container: Any, rate: int, name: str, check: Callable[[int, int, float], object]) -> Iterator[np.ndarray]:
    """The blocks of an open container."""
    from av.audio.resampler import AudioResampler

    if not container.streams.audio:
        raise UnreadableError(f"{name}: no audio track, expected one; take a file that has sound")
    track = container.streams.audio[0]
    told = float(track.duration * track.time_base) if track.duration and track.time_base else 0.0
    own, channels = int(track.rate or 0), int(track.channels or 0)
    if own <= 0 or channels <= 0:
        raise UnreadableError(f"{name}: an audio track of {own} Hz and {channels} channels, expected audio; convert it")
    check(own, channels, told)
    to_floats = AudioResampler(format="flt", layout=track.layout, rate=own)
    resampler, count = StreamResampler(own, rate), 0
    for frame in container.decode(track):
        for block in to_floats.resample(frame):
            samples = block.to_ndarray().reshape(-1, channels).mean(1, dtype=np.float32)
            count += len(samples)
            yield resampler.push(samples)
    yield resampler.finish()
    if count == 0 or count / own < told - _TOLERANCE:
        raise DataError(
            f"{name}: {count / own:.2f} s of audio, {told:.2f} s expected by its header; the file is cut short, copy "
            "it anew"
        )
