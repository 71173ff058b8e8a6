"""The binary format of a CTranslate2 Whisper `model.bin`: little endian, no alignment.

`u32 format · string spec · u32 revision · u32 n`, n × `string name · u8 rank · rank × u32 sizes · u8 dtype · u32 bytes ·
values`, `u32 m`, m × `string alias · string target`; a string is a u16 length that counts a final NUL, then the bytes.
"""

import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from speechmtp.errors import CheckpointError

BINARY_VERSION, SPEC, REVISION = 6, "WhisperSpec", 3
DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class _Reader:
    """Little-endian values of a file, one after the other; CheckpointError where the file ends early."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        self.data = bytearray(path.read_bytes())

    def skip(self, count: int) -> int:
        """Where the next `count` bytes begin; moves behind them."""
        begin, self.offset = self.offset, self.offset + count
        if self.offset > len(self.data):
            raise CheckpointError(
                f"{self.path}: ends after {len(self.data)} bytes, at least {self.offset} expected; copy the file again"
            )
        return begin

    def number(self, code: str) -> int:
        """One unsigned integer of a struct code (B, H, I)."""
        return int(struct.unpack_from("<" + code, self.data, self.skip(struct.calcsize("<" + code)))[0])

    def string(self) -> str:
        """A string whose stored length counts its final NUL."""
        length = self.number("H")
        begin = self.skip(length)
        return self.data[begin : begin + max(length - 1, 0)].decode("utf-8", errors="replace")

    def tensor(self, name: str) -> Tensor:
        """Shape, dtype and values of one variable; a copy."""
        shape = [self.number("I") for _ in range(self.number("B"))]
        code, size = self.number("B"), self.number("I")
        if size == 0 or code >= len(DTYPES) or math.prod(shape) * DTYPES[code].itemsize != size:
            raise CheckpointError(
                f"{self.path}: {name} has shape {shape}, dtype code {code} and {size} bytes, which do not agree; "
                "copy the file again"
            )
        # Offsets are not aligned to the items, so the values are copied out as bytes first.
        values = torch.frombuffer(self.data, dtype=torch.uint8, count=size, offset=self.skip(size)).clone()
        return values.view(DTYPES[code]).reshape(shape)


def read_model(path: Path) -> dict[str, Tensor]:
    """Variables of a CTranslate2 Whisper `model.bin` by name, aliases resolved; settings have rank 0.

    Raises CheckpointError for another format, int8 or int16 matrices, and a file too short or too long.
    """
    reader = _Reader(path)
    found = (reader.number("I"), reader.string() if len(reader.data) > 4 else "", reader.number("I"))
    if found != (BINARY_VERSION, SPEC, REVISION):
        raise CheckpointError(
            f"{path}: format {found[0]}, {found[1][:40]!r} revision {found[2]}, format {BINARY_VERSION}, {SPEC!r} "
            f"revision {REVISION} expected; convert the original with a recent ctranslate2"
        )
    tensors: dict[str, Tensor] = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        tensors[name] = reader.tensor(name)
        if name.endswith("_scale") or (tensors[name].ndim and tensors[name].dtype not in FLOATS):
            raise CheckpointError(
                f"{path}: quantized matrices ({name}), float16, float32 or bfloat16 expected; "
                "convert the original with --quantization float16"
            )
    for _ in range(reader.number("I")):
        alias, target = reader.string(), reader.string()
        if target not in tensors:
            raise CheckpointError(f"{path}: alias {alias} of {target}, which is not in it; copy the file again")
        tensors[alias] = tensors[target]
    if reader.offset != len(reader.data):
        raise CheckpointError(
            f"{path}: {len(reader.data)} bytes, {reader.offset} expected from its header; copy the file again"
        )
    return tensors
