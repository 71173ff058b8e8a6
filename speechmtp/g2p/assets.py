"""The front end's data files, read once: the lexicon, the tagger's weights and the student's."""

import lzma
from functools import cache
from pathlib import Path

from speechmtp.g2p.lexicon import Entry

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
    """A packed lexicon, `gold` or `silver`."""
    entries: dict[str, Entry] = {}
    for line in lzma.decompress((FOLDER / f"{name}.txt.xz").read_bytes()).decode().split("\n"):
        word, said = line.split("\t")
        entries[word] = dict(one.split("=", 1) for one in said.split("|")) if "=" in said else said
    return entries
