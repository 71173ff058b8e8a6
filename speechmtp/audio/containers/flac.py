"""FLAC: the last frame's number tells the length that a header of a stream does not, or not rightly."""

import struct

from speechmtp.audio.containers.links import AS_IT_IS, Data, Link, part

_HEADS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # the magic and the head of the block STREAMINFO
_INFO = 42  # bytes until STREAMINFO ends
_TOTAL = slice(18, 26)  # STREAMINFO's rate, channels, bits and, in 36 bits, samples
_BITS = (1 << 36) - 1
_SHORTEST = 9  # bytes of a frame
_TAIL = 1 << 18  # bytes at the end among which the last frame begins
_SIZES = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608} | {code: 256 << (code - 8) for code in range(8, 16)}


def flac_begins(data: Data, begin: int = 0) -> bool:
    """Whether a FLAC stream begins there."""
    return data[begin : begin + 8] in _HEADS


def flac_links(data: Data, begin: int = 0) -> list[Link]:
    """The links of FLAC streams that were joined, the first of which begins at `begin`."""
    begins = [begin]
    place = data.find(b"fLaC", begin + _INFO)
    while place >= 0:
        if flac_begins(data, place):
            begins.append(place)
        place = data.find(b"fLaC", place + 4)
    ends = [*begins[1:], len(data)]
    links = [_one(data, first, end) for first, end in zip(begins, ends)]
    if len(links) == 1 and not links[0].parts:
        return links
    return [one if one.parts else Link((part(data, first, end),), one.held, one.declared)
            for one, first, end in zip(links, begins, ends)]  # fmt: skip


def _one(data: Data, begin: int, end: int) -> Link:
    """One stream, with the number of samples that its last frame gives it."""
    head = bytearray(data[begin : begin + _INFO])
    if len(head) < _INFO:
        return AS_IT_IS
    packed = int.from_bytes(head[_TOTAL], "big")
    declared = packed & _BITS
    held = _counted(data, begin, end, struct.unpack_from(">H", head, 10)[0])
    if held in (None, declared):
        return AS_IT_IS
    head[_TOTAL] = (packed & ~_BITS | held).to_bytes(8, "big")
    return Link((bytes(head), part(data, begin + _INFO, end)), held, declared or held)


def _counted(data: Data, begin: int, end: int, block: int) -> int | None:
    """Samples until the end of the last whole frame; None if no frame is found. `block` is the fixed size of blocks."""
    first = max(begin + _INFO, end - _TAIL)
    tail = bytes(data[first:end])
    place, later = len(tail), None
    while (place := tail.rfind(b"\xff", 0, place)) >= 0:
        found = _frame(tail[place : place + 16], block)
        if found is None:
            continue
        number, size = found
        if _ends(tail[place:]):
            return number + size
        if later == number + size:  # the later one is no chance likeness of a frame; but it is cut
            return later
        later = number
    return later if later == 0 else None


def _frame(head: bytes, block: int) -> tuple[int, int] | None:
    """First sample and size of the frame with this head; None if it is none."""
    if len(head) < _SHORTEST or head[1] not in (0xF8, 0xF9) or head[3] >> 4 > 10 or head[3] & 1:
        return None
    code, rate = head[2] >> 4, head[2] & 15
    ones = 8 - (~head[4] & 255).bit_length()  # the number is coded as UTF-8 codes characters
    if ones in (1, 8) or code == 0 or rate == 15:
        return None
    number = head[4] & (127 >> ones)
    position = 5
    for byte in head[5 : 4 + max(ones, 1)]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 63
        position += 1
    if code in (6, 7):
        size = int.from_bytes(head[position : position + code - 5], "big") + 1
        position += code - 5
    else:
        size = _SIZES[code]
    position += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if position >= len(head) or _checksum8(head[:position]) != head[position]:
        return None
    return (number if head[1] & 1 else number * block), size


def _table(polynomial: int, bits: int) -> list[int]:
    """Remainders of all bytes for a checksum of FLAC."""
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (bits - 1) & 1 else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return table


_TABLE8, _TABLE16 = _table(0x07, 8), _table(0x8005, 16)


def _checksum8(data: bytes) -> int:
    """The checksum of a frame's head."""
    value = 0
    for byte in data:
        value = _TABLE8[value ^ byte]
    return value


def _ends(data: bytes) -> bool:
    """Whether a frame that begins here ends here too: its checksum follows it, maybe with other bytes behind."""
    value = 0
    for byte in data:
        value = value << 8 & 0xFFFF ^ _TABLE16[value >> 8 ^ byte]
        if value == 0:
            return True
    return False
