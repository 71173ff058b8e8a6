"""Samples without a container: how their bytes are read, and what a WAV header tells of those behind it."""

import struct
from dataclasses import dataclass

import numpy as np

from speechmtp.audio.containers.riff import LONG, MAGICS, is_placeholder, wav_chunks
from speechmtp.errors import ConfigError

# Names as ffmpeg has them -> bytes of a sample, how numpy reads it, and by what it is divided.
ENCODINGS: dict[str, tuple[int, str, float]] = {
    "u8": (1, "u1", 2.0**7),
    "s16le": (2, "<i2", 2.0**15),
    "s16be": (2, ">i2", 2.0**15),
    "s24le": (3, "<i4", 2.0**31),
    "s24be": (3, ">i4", 2.0**31),
    "s32le": (4, "<i4", 2.0**31),
    "s32be": (4, ">i4", 2.0**31),
    "f32le": (4, "<f4", 1.0),
    "f32be": (4, ">f4", 1.0),
    "f64le": (8, "<f8", 1.0),
    "f64be": (8, ">f8", 1.0),
}
RATES = 1000, 1_000_000  # Hz that recordings may have
_CHANNELS = 256  # at most
_INTEGERS, _FLOATS, _EXTENDED = 1, 3, 0xFFFE  # what a WAV header calls them


@dataclass(frozen=True)
class RawAudio:
    """Interleaved samples without a header: their rate in Hz, a name of `ENCODINGS`, and the number of channels.
    ConfigError for what no samples can be."""

    rate: int
    encoding: str = "s16le"
    channels: int = 1

    def __post_init__(self) -> None:
        if not RATES[0] <= self.rate <= RATES[1]:
            raise ConfigError(f"rate: {self.rate} Hz, expected {RATES[0]} to {RATES[1]}, such as 16000")
        if self.encoding not in ENCODINGS:
            raise ConfigError(f"encoding: {self.encoding!r}, expected one of {', '.join(ENCODINGS)}")
        if not 1 <= self.channels <= _CHANNELS:
            raise ConfigError(f"channels: {self.channels}, expected 1 to {_CHANNELS}")

    @property
    def frame(self) -> int:
        """Bytes of a sample of all channels."""
        return ENCODINGS[self.encoding][0] * self.channels

    def samples(self, data: bytes) -> np.ndarray:
        """Float32 samples [n, channels] of the bytes of n whole frames, integers scaled to [-1, 1]."""
        size, kind, scale = ENCODINGS[self.encoding]
        if size == 3:  # into the upper bytes of 32-bit integers
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, slice(1, 4) if kind[0] == "<" else slice(0, 3)] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            data = wide.tobytes()
        found = np.frombuffer(data, kind).astype(np.float32)
        if kind == "u1":
            found -= np.float32(scale)
        return (found / np.float32(scale)).reshape(-1, self.channels)


@dataclass(frozen=True)
class WavHeader:
    """The samples behind the header of a WAV file: what they are (None: a codec), where they begin, and their bytes
    (None: all that come)."""

    raw: RawAudio | None
    start: int
    length: int | None


def is_wav(head: bytes) -> bool:
    """Whether a WAV file begins with these 12 bytes."""
    return head[:4] in MAGICS and head[8:12] == b"WAVE"


def wav_header(head: bytes) -> WavHeader | None:
    """The header of the WAV file that begins with `head`; None as long as its samples do not begin there."""
    order = ">" if head[:4] == b"RIFX" else "<"
    chunks = wav_chunks(head, 0, order)
    if b"data" not in chunks:
        return None
    start, length = chunks[b"data"]
    place, size = chunks.get(b"ds64", (0, 0))
    if length == LONG and size >= 16:
        (length,) = struct.unpack_from("<Q", head, place + 8)
    place, size = chunks.get(b"fmt ", (0, 0))
    raw = None if size < 16 else _format(head[place : place + size], order)
    return WavHeader(raw, start, None if length == 0 or is_placeholder(length) else length)


def _format(fmt: bytes, order: str) -> RawAudio | None:
    """What a chunk `fmt ` tells of; None for a codec."""
    tag, channels, rate, _, block, bits = struct.unpack_from(f"{order}HHIIHH", fmt)
    if tag == _EXTENDED and len(fmt) >= 26:
        (tag,) = struct.unpack_from(f"{order}H", fmt, 24)
    kind = {_INTEGERS: "s", _FLOATS: "f"}.get(tag, "")
    encoding = "u8" if kind == "s" and bits == 8 else f"{kind}{bits}{'be' if order == '>' else 'le'}"
    if encoding not in ENCODINGS or block != ENCODINGS[encoding][0] * channels:
        return None
    try:
        return RawAudio(rate, encoding, channels)
    except ConfigError:
        return None
