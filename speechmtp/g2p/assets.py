"""The front end's data files, read once: the lexicon, the tagger's weights and the student's."""

import io
import lzma
from functools import cache
from pathlib import Path

import numpy as np

from speechmtp.g2p.lexicon import Entry
from speechmtp.g2p.student import Student
from speechmtp.g2p.tagger import Tagger

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "g2p"


def pack_lexicon(entries: dict[str, Entry]) -> bytes:
    """Lines `word<TAB>phones`, or `word<TAB>TAG=phones|...` where the phones depend on the part of speech."""
    lines = []
    for word, entry in sorted(entries.items()):
        said = entry if isinstance(entry, str) else "|".join(f"{tag}={phones}" for tag, phones in entry.items())
        lines.append(f"{word}\t{said}")
    return lzma.compress("\n".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)


@cache
def lexicon(name: str) -> dict[str, Entry]:
    """A packed lexicon: `gold`, `silver` or `bronze`."""
    entries: dict[str, Entry] = {}
    for line in lzma.decompress((FOLDER / f"{name}.txt.xz").read_bytes()).decode().split("\n"):
        word, said = line.split("\t")
        entries[word] = dict(one.split("=", 1) for one in said.split("|")) if "=" in said else said
    return entries


@cache
def student() -> Student:
    """The network for unknown words."""
    arrays = _arrays("student")
    weights = {}
    for name, array in arrays.items():
        scale = arrays.get(f"{name}.scale")
        if scale is not None:
            array = array * scale.reshape(-1, *[1] * (array.ndim - 1))
        weights[name] = array.astype(np.float32)
    return Student(weights)


@cache
def tagger() -> Tagger:
    """The tagger of parts of speech."""
    arrays = _arrays("tagger")
    names = arrays["names"].tobytes().decode().split("\n")
    return Tagger({name: row for row, name in enumerate(names)}, np.ascontiguousarray(arrays["weights"].T))


def _arrays(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(io.BytesIO(lzma.decompress((FOLDER / f"{name}.npz.xz").read_bytes()))))
