"""MPEG audio (MP3, MP2): its frames are counted one by one, since a stream without a Xing header has no length."""

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from speechmtp.audio.containers.links import AS_IT_IS, Data, Link, Part, part

_RATES = (44100, 48000, 32000)
_KBITS = {  # by (MPEG-1 or not, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_TAG = 128  # bytes of an ID3v1 tag
_MONO = 3


@dataclass(frozen=True)
class Header:
    """What a frame's header says: its bytes, and what all frames of a stream share."""

    size: int
    kbits: int
    kind: tuple[int, int, int, bool]  # version, layer, rate in Hz, whether it is mono

    @property
    def side(self) -> int:
        """Bytes of side information, behind which an encoder puts its Xing header."""
        version, _, _, mono = self.kind
        return (17 if mono else 32) if version == 3 else (9 if mono else 17)


@dataclass
class _Run:
    """Frames of one kind, or those behind a Xing header: where it begins, the count that the header declares (0: none),
    and where each frame begins and ends."""

    kind: tuple[int, int, int, bool]
    begin: int
    declared: int = 0
    kbits: set[int] = field(default_factory=set)
    frames: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether libsndfile finds the right length by itself: by a true Xing header, or by frames of one size and
        little between them."""
        if self.declared:  # some encoders count the frame of the header, some do not
            return abs(len(self.frames) - self.declared) <= 1
        return len(self.kbits) == 1 and self.is_dense(self.frames[-1][1] - self.begin)

    def is_dense(self, length: int) -> bool:
        """Whether hardly more than the frames is in `length` bytes."""
        inside = sum(end - begin for begin, end in self.frames)
        return length - inside < 2 * inside / len(self.frames)


def starts_mpeg(data: Data) -> bool:
    """Whether a file begins with a frame of MPEG audio, behind ID3v2 tags."""
    return _header_at(data, skip_tags(data, 0)) is not None


def mpeg_links(data: Data | memoryview) -> list[Link]:
    """The links of MPEG audio: one for every Xing header, and for every change of rate or channels. A Xing header that
    is missing or wrong is replaced by one that counts all frames."""
    runs = _runs(data)
    links = []
    for run in runs:
        held = len(run.frames)
        declared = run.declared if run.declared > held + 1 else held
        if not run.is_right:
            parts = _joined(data, run)
        elif len(runs) == 1 and (run.declared or run.is_dense(len(data))):
            parts = ()
        else:
            parts = (part(data, run.begin, run.frames[-1][1]),)
        links.append(Link(parts, held, declared))
    return links or [AS_IT_IS]


def _runs(data: Data | memoryview) -> list[_Run]:
    """The frames of a file, parted at Xing headers and where rate or channels change."""
    runs, position = list[_Run](), skip_tags(data, 0)
    while position + 4 <= len(data):
        header = _header_at(data, position)
        known = bool(runs) and header is not None and header.kind == runs[-1].kind
        if header is None or not (known or _header_at(data, position + header.size) or not runs):
            position = _resync(data, position)
            continue
        end = position + header.size
        if end > len(data):
            break
        count = _declared(data[position:end], header) if header.kind[1] == 3 else None
        # Layers I and II have no Xing headers, so that each link has one bit rate.
        if count is not None or not known or (header.kind[1] != 3 and header.kbits not in runs[-1].kbits):
            runs.append(_Run(header.kind, position, count or 0))
        if count is None:
            runs[-1].frames.append((position, end))
            runs[-1].kbits.add(header.kbits)
        position = end
    return [run for run in runs if run.frames]


def _header_at(data: Data | memoryview, position: int) -> Header | None:
    """The header of the frame that begins there; None if none does."""
    return _header(bytes(data[position : position + 4]))


@lru_cache(4096)
def _header(four: bytes) -> Header | None:
    """A header of four bytes; None if they are none, or of a stream of free bit rate."""
    if len(four) < 4 or four[0] != 0xFF or four[1] < 0xE0:
        return None
    version, layer = four[1] >> 3 & 3, 4 - (four[1] >> 1 & 3)
    index, rate, padding = four[2] >> 4, four[2] >> 2 & 3, four[2] >> 1 & 1
    if version == 1 or layer == 4 or index in (0, 15) or rate == 3:
        return None
    kbits = _KBITS[version == 3, layer][index]
    hz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    if layer == 1:
        size = (12000 * kbits // hz + padding) * 4
    else:
        size = (72000 if layer == 3 and version != 3 else 144000) * kbits // hz + padding
    return Header(size, kbits, (version, layer, hz, four[3] >> 6 == _MONO))


def _declared(frame: Data | memoryview, header: Header) -> int | None:
    """The number of frames that a Xing, Info or VBRI header in this frame declares (0: not told); None without one."""
    for place in (4 + header.side, 6 + header.side):  # with a checksum: two bytes later
        if frame[place : place + 4] in (b"Xing", b"Info") and len(frame) >= place + 12:
            flags, count = struct.unpack_from(">II", frame, place + 4)
            return count if flags & 1 else 0
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        return int(struct.unpack_from(">I", frame, 50)[0])
    return None


def _joined(data: Data | memoryview, run: _Run) -> tuple[Part, ...]:
    """The frames of a run without what is between them; those of layer III behind a Xing header that counts them."""
    parts = list[Part]()
    if run.kind[1] == 3:
        parts.append(_xing(bytes(data[run.frames[0][0] : run.frames[0][0] + 4]), len(run.frames)))
    begin = run.frames[0][0]
    for (_, end), (following, _) in pairwise([*run.frames, (-1, -1)]):
        if end != following:
            parts.append(part(data, begin, end))
            begin = following
    return tuple(parts)


def _xing(four: bytes, count: int) -> bytes:
    """A frame with a Xing header for `count` frames like that of header `four`."""
    for index in range(1, 15):
        own = bytes((four[0], four[1] | 1, index << 4 | four[2] & 0x0C, four[3]))
        header = _header(own)
        if header is not None and header.size >= 4 + header.side + 12:
            frame = own + bytes(header.side) + b"Xing" + struct.pack(">II", 1, count)
            return frame + bytes(header.size - len(frame))
    raise AssertionError(four)


def skip_tags(data: Data | memoryview, position: int) -> int:
    """The position behind the ID3v2, APE and ID3v1 tags that begin there."""
    while position + 32 <= len(data):
        head = bytes(data[position : position + 32])
        if head[:3] == b"ID3":
            size = 0
            for byte in head[6:10]:
                size = size << 7 | byte & 127
            position += 10 + size + (10 if head[5] & 16 else 0)
        elif head[:8] == b"APETAGEX":
            size, flags = struct.unpack_from("<I", head, 12)[0], struct.unpack_from("<I", head, 20)[0]
            position += size + (32 if flags >> 29 & 1 else 0)
        elif head[:3] == b"TAG":
            position += _TAG
        else:
            break
    return position


def _resync(data: Data | memoryview, position: int) -> int:
    """The position of the next frame that another follows, behind tags and what is no audio."""
    skipped = skip_tags(data, position)
    if skipped > position:
        return skipped
    window = 1 << 16
    while position + 4 <= len(data):
        block = bytes(data[position + 1 : position + 1 + window])
        place = block.find(b"\xff")
        while place >= 0:
            header = _header_at(data, position + 1 + place)
            if header is not None and _header_at(data, position + 1 + place + header.size) is not None:
                return position + 1 + place
            place = block.find(b"\xff", place + 1)
        position += window
    return len(data)
