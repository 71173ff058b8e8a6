"""Audio files made by hand: of every container, cut, joined, never finished, in pages and frames."""

import io
import struct
import zlib

import numpy as np
import soundfile

RATE = 16000


def sound(seconds: float = 1.0, rate: int = RATE, loudness: float = 0.3) -> np.ndarray:
    """Noise that swells and fades, float32."""
    size = round(seconds * rate)
    noise = np.random.default_rng(size).standard_normal(size)
    return (loudness * np.hanning(size) * noise).clip(-1, 1).astype(np.float32)


def written(audio: np.ndarray, kind: str, subtype: str | None = None, rate: int = RATE, **options: object) -> bytes:
    """Samples as a file of a format and subtype of libsndfile."""
    stream = io.BytesIO()
    soundfile.write(stream, audio, rate, format=kind, subtype=subtype, **options)
    return stream.getvalue()


def stream_of(data: bytes, name: str = "a") -> io.BytesIO:
    """Bytes as an open file with a name."""
    stream = io.BytesIO(data)
    stream.name = name
    return stream


def put(data: bytes, place: int, value: bytes) -> bytes:
    """Bytes with others in place of some of them."""
    return data[:place] + value + data[place + len(value) :]


def without_xing(mp3: bytes) -> bytes:
    """An MP3 file without its first frame, which says how long it is."""
    assert b"Xing" in mp3[:64] or b"Info" in mp3[:64]
    return mp3[mp3.index(mp3[:2], 4) :]


def mp3(audio: np.ndarray, rate: int = RATE) -> bytes:
    """An MP3 file of variable bit rate."""
    return written(audio, "MP3", rate=rate, bitrate_mode="VARIABLE", compression_level=0.9)


def pages(ogg: bytes) -> list[bytes]:
    """The pages of an Ogg file."""
    begins = []
    place = 0
    while place < len(ogg):
        begins.append(place)
        count = ogg[place + 26]
        place += 27 + count + sum(ogg[place + 27 : place + 27 + count])
    return [ogg[begin:end] for begin, end in zip(begins, [*begins[1:], len(ogg)])]


def page(body: bytes, flags: int, granule: int, serial: int, number: int) -> bytes:
    """An Ogg page with one packet of less than 65025 bytes, and its checksum."""
    sizes = bytes([255] * (len(body) // 255) + [len(body) % 255])
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, serial, number, 0, len(sizes)) + sizes
    return sealed(head + body)


def sealed(page: bytes) -> bytes:
    """A page with its checksum."""
    # The polynomial is that of zlib, with the bits of bytes and of the result the other way round.
    mirror = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    value = zlib.crc32(put(page, 22, bytes(4)).translate(mirror), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return put(page, 22, struct.pack("<I", int(f"{value:032b}"[::-1], 2)))


def flac_in_ogg(flac: bytes, samples: int) -> bytes:
    """A FLAC file in pages of Ogg: one with its header, and others of 8000 bytes."""
    head = page(b"\x7fFLAC\x01\x00\x00\x00" + flac[:42], 2, 0, 7, 0)
    bodies = [flac[begin : begin + 8000] for begin in range(42, len(flac), 8000)]
    ends = [samples * (index + 1) // len(bodies) for index in range(len(bodies))]
    return head + b"".join(page(body, 0, end, 7, number) for number, (body, end) in enumerate(zip(bodies, ends), 1))
