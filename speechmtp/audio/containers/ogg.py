"""Ogg (Vorbis, Opus, FLAC): its pages tell how streams follow one another and how far each reaches."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from speechmtp.audio.containers.flac import flac_begins, flac_links
from speechmtp.audio.containers.links import AS_IT_IS, Data, Link, part

_HEAD = 27  # bytes of a page before its list of segments
_FIRST = 2  # flag of the first page of a stream
_FLAC = b"\x7fFLAC"
_FLAC_HEAD = 9  # bytes of Ogg before the FLAC stream itself
_CODECS = (b"\x01vorbis", b"OpusHead", _FLAC)
_OPUS_MOST = 5760  # samples of 48 kHz in a packet


@dataclass(frozen=True)
class _Page:
    """A page: where it and its body lie, whether it begins a stream, the position at its end (-1: no packet ends), its
    stream, its number in the stream, its packets, and whether the file holds all of it."""

    begin: int
    body: int
    end: int
    first: bool
    granule: int
    serial: int
    number: int
    packets: int
    whole: bool


def ogg_links(data: Data) -> list[Link]:
    """The links of a chained Ogg file; of several streams at one time, the first audio stream."""
    chain = list[list[_Page]]()
    for page in _pages(data):
        if page.first and (not chain or not chain[-1][-1].first):
            chain.append([])
        if chain:
            chain[-1].append(page)
    links = list[Link]()
    for pages in chain:
        links += _one(data, pages, alone=len(chain) == 1)
    return links or [AS_IT_IS]


def _pages(data: Data) -> Iterator[_Page]:
    """The pages of a file; bytes between them are skipped."""
    position = 0
    while (position := data.find(b"OggS", position)) >= 0:
        if position + _HEAD > len(data):
            return
        flags, granule, serial, number = struct.unpack_from("<BqII", data, position + 5)
        body = position + _HEAD + data[position + 26]
        sizes = data[position + _HEAD : body]
        end = body + sum(sizes)
        if body > len(data):
            return
        packets = sum(size < 255 for size in sizes)
        yield _Page(position, body, end, bool(flags & _FIRST), granule, serial, number, packets, end <= len(data))
        position = end


def _one(data: Data, pages: list[_Page], alone: bool) -> list[Link]:
    """The links of one part of the chain; none without an audio stream that libsndfile knows."""
    heads = {page.serial: bytes(data[page.body : page.body + 64]) for page in pages if page.first}
    serial = next((one for one, head in heads.items() if head.startswith(_CODECS)), None)
    if serial is None:
        return []
    own = [page for page in pages if page.serial == serial]
    whole = [page for page in own if page.whole]
    if heads[serial].startswith(_FLAC):
        stream = b"".join(part(data, page.body, page.end) for page in whole)[_FLAC_HEAD:]
        links = flac_links(stream) if flac_begins(stream) else [AS_IT_IS]
        positions = [max((page.granule for page in some), default=0) for some in (whole, own)]
        return [
            Link(one.parts or (stream,), *((one.held, one.declared) if one.held != one.declared else positions))
            for one in links
        ]
    most = _most(heads[serial])
    held, gaps = _length(whole, most)
    declared, _ = _length(own, most)
    parts = () if alone and len(own) == len(pages) else tuple(part(data, page.begin, page.end) for page in own)
    return [Link(parts, held, declared, held / _unit(heads[serial]) if gaps else None)]


def _most(head: bytes) -> int:
    """The largest number of samples, in the unit of positions, that a packet of the stream can hold."""
    return _OPUS_MOST if head.startswith(b"OpusHead") else 1 << (head[28] >> 4)


def _unit(head: bytes) -> int:
    """Positions a second."""
    return 48000 if head.startswith(b"OpusHead") else max(1, int.from_bytes(head[12:16], "little"))


def _length(pages: list[_Page], most: int) -> tuple[int, bool]:
    """Length by the positions, and whether they rise where nothing is: a stream joined late, or pages that were
    lost."""
    length, last, packets, gaps = 0, 0, 0, False
    for index, page in enumerate(pages):
        packets += page.packets
        gaps |= index > 0 and page.number != pages[index - 1].number + 1
        if page.granule > 0:
            gaps |= page.granule - last > packets * most
            length += min(max(0, page.granule - last), packets * most)
            last, packets = page.granule, 0
    return length, gaps
