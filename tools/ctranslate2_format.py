"""The binary format of a CTranslate2 Whisper `model.bin`: little endian, no alignment.

`u32 format · string spec · u32 revision · u32 n`, n × `string name · u8 rank · rank × u32 sizes · u8 dtype · u32 bytes
· values`, `u32 m`, m × `string alias · string target`; a string is a u16 length, which counts a final NUL, and then
the bytes.
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from speechmtp.errors import CheckpointError

FORMAT, SPEC, REVISION = 6, "WhisperSpec", 3
DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)


class _Reader:
    """Little-endian values of a file, one after the other; CheckpointError where it ends early."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file

    def take(self, count: int) -> bytearray:
        """The next `count` bytes."""
        found = bytearray(self.file.read(count))
        if len(found) < count:
            raise CheckpointError(
                f"{self.path}: ends after {self.file.tell()} bytes, {count - len(found)} more expected; "
                "copy the file again"
            )
        return found

    def number(self, code: str) -> int:
        """One unsigned integer of a struct code (B, H, I)."""
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0])

    def string(self) -> str:
        """A string whose stored length counts its final NUL."""
        return self.take(self.number("H"))[:-1].decode("utf-8", errors="replace")

    def tensor(self, name: str) -> Tensor:
        """Shape, dtype and values of one variable."""
        shape = [self.number("I") for _ in range(self.number("B"))]
        code, size = self.number("B"), self.number("I")
        if size == 0 or code >= len(DTYPES) or math.prod(shape) * DTYPES[code].itemsize != size:
            raise CheckpointError(
                f"{self.path}: {name} has shape {shape}, dtype code {code} and {size} bytes, which do not agree; "
                "copy the file again"
            )
        return torch.frombuffer(self.take(size), dtype=DTYPES[code]).reshape(shape)


def read_model(path: Path) -> dict[str, Tensor]:
    """Variables of a CTranslate2 Whisper `model.bin` by name, aliases resolved; settings have rank 0.

    Raises CheckpointError for another format, integer matrices, and a file too short or too long.
    """
    with path.open("rb") as file:
        reader = _Reader(path, file)
        _check_header(reader)
        tensors: dict[str, Tensor] = {}
        for _ in range(reader.number("I")):
            name = reader.string()
            tensors[name] = reader.tensor(name)
            if name.endswith("_scale") or (tensors[name].ndim and not tensors[name].is_floating_point()):
                raise CheckpointError(
                    f"{path}: quantized matrices ({name}), float16, float32 or bfloat16 expected; "
                    "convert the original with --quantization float16"
                )
        for _ in range(reader.number("I")):
            alias, target = reader.string(), reader.string()
            if target not in tensors:
                raise CheckpointError(f"{path}: alias {alias} of {target}, which is not in it; copy the file again")
            tensors[alias] = tensors[target]
        if file.read(1):
            raise CheckpointError(f"{path}: goes on behind its last entry, nothing expected; copy the file again")
    return tensors


def _check_header(reader: _Reader) -> None:
    """CheckpointError unless the file begins as a Whisper of a recent CTranslate2 does."""
    found = reader.number("I")
    if found != FORMAT:
        raise CheckpointError(
            f"{reader.path}: begins with {found}, {FORMAT} expected; not a model of CTranslate2, or of a version of "
            "it too old or too new to be read here"
        )
    spec, revision = reader.string(), reader.number("I")
    if (spec, revision) != (SPEC, REVISION):
        raise CheckpointError(
            f"{reader.path}: {spec[:40]!r} revision {revision}, {SPEC!r} revision {REVISION} expected; "
            "give a Whisper, converted by a recent ctranslate2"
        )
