"""Containers of chunks (AIFF, CAF, Wave64) and of one plain header (AU, SPHERE)."""

import re
import struct
from dataclasses import dataclass

from speechmtp.audio.containers.links import AS_IT_IS, Data, Link, beyond, part
from speechmtp.audio.containers.riff import is_placeholder


@dataclass(frozen=True)
class Layout:
    """How a container writes chunks: a name and its length in bytes, then the content, padded to `align`."""

    magic: bytes
    header: int  # bytes before the first chunk
    samples: bytes  # name of the chunk that holds them
    length: str  # as struct writes it
    total: int | None = None  # where the length of the whole file stands
    uncounted: int = 0  # bytes of the file's beginning that its length leaves out
    counts_head: bool = False  # whether a chunk's length counts its name and length
    prefix: int = 0  # bytes of the samples' chunk before the samples
    align: int = 1


AIFF = Layout(b"FORM", 12, b"SSND", ">I", total=4, uncounted=8, prefix=8, align=2)
CAF = Layout(b"caff", 8, b"data", ">q", prefix=4)
W64 = Layout(
    b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000"), 40, b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a"), "<Q",
    total=16, counts_head=True, align=8,
)  # fmt: skip

_UNKNOWN = 0xFFFFFFFF  # the length in AU files that were written into a pipe
AU = {b".snd": ">", b"dns.": "<"}
SPHERE = re.compile(rb"NIST_1A\n *(\d+)\n")
_FIELD = re.compile(rb"^(\w+) -\w+ (\S+)", re.MULTILINE)


def chunk_links(data: Data, layout: Layout) -> list[Link]:
    """The links of one file of chunks, or of several that were joined."""
    links, begin = list[Link](), 0
    while data[begin : begin + len(layout.magic)] == layout.magic:
        link, end = _one(data, begin, layout)
        links.append(link)
        begin = end
    return links


def _one(data: Data, begin: int, layout: Layout) -> tuple[Link, int]:
    """The file that begins there, and where the next may begin."""
    chunk = _chunk(data, begin + layout.header, layout)
    while chunk is not None and chunk.name != layout.samples:
        chunk = _chunk(data, chunk.end, layout)
    if chunk is None:
        return AS_IT_IS, len(data)
    start = chunk.start + layout.prefix
    length, available = chunk.length - layout.prefix, max(0, len(data) - start)
    endless = length < 0 or (length > available and is_placeholder(length))
    endless = endless or (length == 0 and not _is_all(data, begin, start, layout))
    length = available if endless else length
    held = min(length, available)
    behind = len(data) if endless else _behind(data, chunk.end, layout)
    another = data[behind : behind + len(layout.magic)] == layout.magic
    more = 0 if another else beyond(data, behind)
    if endless and layout is AIFF:  # libsndfile reads to the end where the length is 0
        return Link((part(data, begin, chunk.size_at), bytes(4), part(data, chunk.start, len(data)))), behind
    if layout is not AIFF and (endless or held < length):  # which libsndfile may not open
        size = struct.pack(layout.length, start + held - (chunk.name_at if layout.counts_head else chunk.start))
        parts = (part(data, begin, chunk.size_at), size, part(data, chunk.start, start + held))
        return Link(parts, held, length), behind
    return Link(() if begin == 0 and behind == len(data) else (part(data, begin, behind),), held + more, length), behind


@dataclass(frozen=True)
class _Chunk:
    """A chunk: where it begins, its name, where its length stands, where its content begins, the content's length (-1:
    unknown), and where the next chunk begins."""

    name_at: int
    name: bytes
    size_at: int
    start: int
    length: int
    end: int


def _chunk(data: Data, position: int, layout: Layout) -> _Chunk | None:
    """The chunk that begins there; None at the end of the file."""
    size_at = position + len(layout.samples)
    start = size_at + struct.calcsize(layout.length)
    if start > len(data):
        return None
    length: int = struct.unpack_from(layout.length, data, size_at)[0]
    length = max(-1, length - (start - position if layout.counts_head else 0))
    end = start + max(0, length)
    return _Chunk(position, data[position:size_at], size_at, start, length, min(len(data), end + -end % layout.align))


def _is_all(data: Data, begin: int, end: int, layout: Layout) -> bool:
    """Whether a file without samples says rightly that it ends there."""
    if layout.total is None:
        return end == len(data)
    total: int = struct.unpack_from(layout.length, data, begin + layout.total)[0]
    return begin + layout.uncounted + total == len(data)


def _behind(data: Data, position: int, layout: Layout) -> int:
    """Where the chunks behind the samples end."""
    while data[position : position + len(layout.magic)] != layout.magic:
        chunk = _chunk(data, position, layout)
        if chunk is None or not chunk.name[:4].isascii() or not chunk.name[:4].decode().isprintable():
            break
        if chunk.length < 0 or chunk.start + chunk.length > len(data):
            break
        position = chunk.end
    return min(position, len(data))


def au_links(data: Data) -> list[Link]:
    """The links of one AU file, or of several that were joined."""
    links, begin = list[Link](), 0
    while data[begin : begin + 4] in AU and begin + 24 <= len(data):
        order = AU[data[begin : begin + 4]]
        offset, length = struct.unpack_from(f"{order}II", data, begin + 4)
        start = begin + offset
        available = max(0, len(data) - start)
        if length in (0, _UNKNOWN) or (length > available and is_placeholder(length)):
            size = struct.pack(f"{order}I", _UNKNOWN)
            return [*links, Link((part(data, begin, begin + 8), size, part(data, begin + 12, len(data))))]
        end = start + min(length, available)
        links.append(_plain(data, begin, end, available, length))
        begin = end
    return links


def sphere_links(data: Data) -> list[Link]:
    """The links of one NIST SPHERE file, or of several that were joined."""
    links, begin = list[Link](), 0
    while (head := SPHERE.match(data[begin : begin + 16])) is not None:
        fields = dict(_FIELD.findall(data[begin : begin + int(head[1])]))
        numbers = [fields.get(name, b"") for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
        sizes = [int(number) if number.isdigit() else 0 for number in numbers]
        start, length = begin + int(head[1]), sizes[0] * sizes[1] * sizes[2]
        available = max(0, len(data) - start)
        if length == 0 or b"embedded" in fields.get(b"sample_coding", b""):
            break
        end = start + min(length, available)
        links.append(_plain(data, begin, end, available, length))
        begin = end
    return links or [AS_IT_IS]


def _plain(data: Data, begin: int, end: int, available: int, length: int) -> Link:
    """A file of a header and samples until `end`; what follows that is no other file is taken for samples."""
    magic = bytes(data[begin : begin + 4])
    another = data[end : end + 4] == magic
    more = 0 if another else beyond(data, end)
    parts = () if begin == 0 and end == len(data) else (part(data, begin, end),)
    return Link(parts, min(length, available) + more, length)
