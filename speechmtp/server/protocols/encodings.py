"""Bytes of a client to samples: in pieces of any size, with or without the header of a WAV file before them."""

import binascii
from collections.abc import Callable

import numpy as np

from speechmtp.audio.containers.riff import MAGICS
from speechmtp.audio.raw import RATES, RawAudio, is_wav, wav_header
from speechmtp.errors import DataError

HEADER = 12  # bytes by which a WAV file is known
LONGEST_HEADER = 1 << 16  # bytes before the samples of a WAV file
# What is no audio without a decoder, by how it begins; the first is the name.
CONTAINERS = (
    ("FLAC", b"fLaC"),
    ("Ogg", b"OggS"),
    ("WebM", b"\x1aE\xdf\xa3"),
    ("MP3", b"ID3"),
)


def _mulaw() -> np.ndarray:
    """G.711 mu-law: the sample int16 of each byte."""
    codes = ~np.arange(256, dtype=np.int32) & 0xFF
    size = ((((codes & 0x0F) << 3) + 0x84) << ((codes & 0x70) >> 4)) - 0x84
    return np.where(codes & 0x80, -size, size).astype(np.int16)


def _alaw() -> np.ndarray:
    """G.711 A-law: the sample int16 of each byte."""
    codes = np.arange(256, dtype=np.int32) ^ 0x55
    shift, size = (codes & 0x70) >> 4, (codes & 0x0F) << 4
    size = np.where(shift == 0, size + 8, (size + 0x108) << np.maximum(shift - 1, 0))
    return np.where(codes & 0x80, size, -size).astype(np.int16)


_MULAW, _ALAW = _mulaw(), _alaw()


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Floats [n] in [-1, 1] as int16; what is beyond is cut, and what is no number is silence."""
    scaled = np.nan_to_num(samples.astype(np.float64) * 32768.0, nan=0.0, posinf=32767.0, neginf=-32768.0)
    return np.clip(np.rint(scaled), -32768, 32767).astype(np.int16)


def _linear16(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<i2").astype(np.int16)


def _linear32(data: bytes) -> np.ndarray:
    return to_int16(np.frombuffer(data, "<f4"))


# Names of protocols -> bytes of a sample, and what makes samples of them.
ENCODINGS: dict[str, tuple[int, Callable[[bytes], np.ndarray]]] = {
    "linear16": (2, _linear16),
    "linear32": (4, _linear32),
    "mulaw": (1, lambda data: _MULAW[np.frombuffer(data, np.uint8)]),
    "alaw": (1, lambda data: _ALAW[np.frombuffer(data, np.uint8)]),
}


def read_base64(text: str) -> bytes:
    """The bytes of base64 with its own letters and padding and nothing else; DataError for any other text."""
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        problem = "letters that are not its own" if isinstance(error, UnicodeEncodeError) else str(error).lower()
        raise DataError(f"audio: no base64 ({problem}), expected letters of A-Za-z0-9+/ padded with =") from None


class SampleReader:
    """Makes samples of a stream of bytes in an `encoding` at `rate` Hz, which comes in pieces of any size.

    Where the stream begins with the header of a WAV file, the header is no audio, and the samples behind it are what it
    tells. Without an encoding (empty) there has to be one.
    """

    def __init__(self, encoding: str, rate: float) -> None:
        self.encoding, self.given = encoding, rate
        self.begin()

    def begin(self) -> None:
        """Another stream begins: forget the bytes of an unfinished sample."""
        self.rate = self.given  # of the samples that `push` returns, once it returned some
        self._held = b""
        self._raw: RawAudio | None = None
        self._open = True  # whether a header may follow

    def push(self, data: bytes) -> np.ndarray:
        """Samples int16 [n] that are complete with these bytes. DataError for a stream that no samples can be made of;
        nothing of it is kept."""
        data = self._held + data if self._held else data
        self._held = b""
        if self._open:
            try:
                data = self._begun(data)
            except DataError:
                self.begin()
                raise
        size = self._size
        whole = len(data) // size * size
        self._held, data = self._held + data[whole:], data[:whole]
        return self._samples(data) if data else np.zeros(0, np.int16)

    def settle(self) -> np.ndarray:
        """The client marks a place in its stream: samples [n] of bytes that were held only because a header might begin
        with them. Where no sample is unfinished, another WAV file may follow."""
        if self._open and len(self._held) < HEADER:
            data, self._held = self._held, b""
            known = self.encoding or self._raw is not None
            whole = len(data) // self._size * self._size if known else 0
            self._held = data[whole:]
            return self._samples(data[:whole]) if whole else np.zeros(0, np.int16)
        if not self._open and not self._held:
            self._open = True
        return np.zeros(0, np.int16)

    @property
    def _size(self) -> int:
        if self._raw is not None:
            return self._raw.frame
        return ENCODINGS[self.encoding][0] if self.encoding else 1

    def _samples(self, data: bytes) -> np.ndarray:
        if self._raw is None:
            return ENCODINGS[self.encoding][1](data)
        if self._raw.encoding == "s16le" and self._raw.channels == 1:
            return _linear16(data)
        return to_int16(self._raw.samples(data).mean(axis=1))

    def _begun(self, data: bytes) -> bytes:
        """The bytes of samples in the first ones of a stream; those that may be a header are held back."""
        may_be = any(data[:4] == magic[: len(data)] for magic in MAGICS)
        if not may_be or (len(data) >= HEADER and not is_wav(data)):
            return self._raw_begun(data)
        header = wav_header(data) if len(data) >= HEADER else None
        if header is None and len(data) < LONGEST_HEADER:
            self._held = data
            return b""
        if header is None:
            raise DataError(
                f"audio: a WAV file without samples in its first {LONGEST_HEADER} bytes; send a shorter header"
            )
        if header.raw is None:
            raise DataError("audio: a WAV file of compressed samples; send integers or floats without compression")
        self._open, self._raw, self.rate = False, header.raw, float(header.raw.rate)
        return data[header.start :]

    def _raw_begun(self, data: bytes) -> bytes:
        """The bytes of a stream that goes on, or that has no header."""
        if self.encoding or self._raw is not None:
            self._open = False
            return data
        if len(data) < 4:
            self._held = data
            return b""
        found = next((name for name, magic in CONTAINERS if data.startswith(magic)), None)
        what = "no WAV file, and no encoding is given" if found is None else f"{found}, which is not decoded live"
        raise DataError(f"audio: {what}; give encoding and sample_rate, send WAV, or upload the file with POST")


def checked_rate(value: object) -> float | None:
    """A sample rate in Hz that is a number and possible; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not RATES[0] <= value <= RATES[1]:
        return None
    return float(value)
