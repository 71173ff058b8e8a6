"""WAV files of every kind: RIFF, RIFX (big-endian), RF64 and BW64 (beyond 4 GiB)."""

import struct

from speechmtp.audio.containers.links import AS_IT_IS, Data, Link, beyond, part
from speechmtp.audio.containers.mpeg import mpeg_links

MAGICS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_MPEG_TAGS = (0x50, 0x55)
LONG = 0xFFFFFFFF  # in place of a length that needs 64 bits
# Lengths that a writer puts where it cannot know the true one lie this near to 2 or 4 GiB, or to the 64-bit limits.
_NEAR = 0x2000


def riff_links(data: Data) -> list[Link]:
    """The links of one WAV file, or of several that were joined."""
    links, begin = list[Link](), 0
    while _is_wav(data, begin):
        found, begin = _one(data, begin)
        links += found
    return links or [AS_IT_IS]


def is_placeholder(length: int) -> bool:
    """Whether a length may stand in the place of one that the writer could not know."""
    return any(-_NEAR <= length - limit <= _NEAR for limit in (1 << 31, 1 << 32, 1 << 63, 1 << 64))


def _is_wav(data: Data, begin: int) -> bool:
    return data[begin : begin + 4] in MAGICS and data[begin + 8 : begin + 12] == b"WAVE"


def _one(data: Data, begin: int) -> tuple[list[Link], int]:
    """The links of the WAV file that begins there (none if it has no samples' chunk), and where the next may begin."""
    order = ">" if data[begin : begin + 4] == b"RIFX" else "<"
    chunks = wav_chunks(data, begin, order)
    if b"data" not in chunks or chunks.get(b"fmt ", (0, 0))[1] < 16:
        return [], len(data)
    (total,) = struct.unpack_from(f"{order}I", data, begin + 4)
    start, length = chunks[b"data"]
    place, size = chunks.get(b"ds64", (0, 0))
    if data[begin : begin + 4] in (b"RF64", b"BW64") and length == LONG:
        total, length = struct.unpack_from("<QQ", data, place) if size >= 16 else (0, 0)
    end = min(start + length, len(data))
    behind = _behind(data, end + (length & 1), order)
    # What is no chunk and no other file is taken for samples that the header does not know of.
    more = 0 if _is_wav(data, behind) else beyond(data, behind)
    known = not is_placeholder(length) or (start + length <= len(data) and not more)
    if not known or (length == 0 and begin + 8 + total != len(data)):
        known, more = False, 0
        end = behind = _next_wav(data, start)
        length = end - start
    samples = part(data, start, end)
    held = end - start + more
    place, size = chunks[b"fmt "]
    fmt = data[place - 8 : place + size + (size & 1)]
    if struct.unpack_from(f"{order}H", fmt, 8)[0] in _MPEG_TAGS:
        return [Link(one.parts or (samples,), held, length) for one in mpeg_links(samples)], behind
    if begin == 0 and behind == len(data) and known and data[:4] != b"BW64":
        return [Link((), held, length)], behind
    return [Link((riff_header(fmt, len(samples), order), samples), held, length)], behind


def wav_chunks(data: Data, begin: int, order: str) -> dict[bytes, tuple[int, int]]:
    """Name -> where the content begins and its length, of the chunks of the WAV file that begins there, up to the
    samples' (`data`), if it is there; `order` is that of their bytes, as struct writes it."""
    chunks, position = dict[bytes, tuple[int, int]](), begin + 12
    while position + 8 <= len(data) and b"data" not in chunks:
        (length,) = struct.unpack_from(f"{order}I", data, position + 4)
        chunks[data[position : position + 4]] = (position + 8, length)
        position += 8 + length + (length & 1)
    return chunks


def _behind(data: Data, position: int, order: str) -> int:
    """Where the chunks behind the samples end."""
    while position + 8 <= len(data) and not _is_wav(data, position):
        name, (length,) = data[position : position + 4], struct.unpack_from(f"{order}I", data, position + 4)
        if not all(32 <= byte < 127 for byte in name) or position + 8 + length > len(data):
            break
        position += 8 + length + (length & 1)
    return min(position, len(data))


def _next_wav(data: Data, begin: int) -> int:
    """Where another WAV file begins behind samples of unknown length; else the end."""
    place = data.find(b"WAVE", begin)
    while place >= 0:
        if place - 8 >= begin and _is_wav(data, place - 8):
            return place - 8
        place = data.find(b"WAVE", place + 1)
    return len(data)


def riff_header(fmt: bytes, length: int, order: str) -> bytes:
    """A header for `length` bytes of samples of the format chunk `fmt`."""
    if length + len(fmt) + 12 < LONG:
        name, sizes = b"RIFX" if order == ">" else b"RIFF", (4 + len(fmt) + 8 + length, length)
        wide = b""
    else:
        name, sizes = b"RF64", (LONG, LONG)
        wide = b"ds64" + struct.pack("<IQQQI", 28, 4 + 36 + len(fmt) + 8 + length, length, 0, 0)
    total, size = (struct.pack(f"{order}I", one) for one in sizes)
    return name + total + b"WAVE" + wide + fmt + b"data" + size
