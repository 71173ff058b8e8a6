"""Make the assets of `speechmtp/g2p` from misaki's lexicon, by hand.

    python -m tools.make_g2p lexicon FOLDER

FOLDER holds misaki's us_gold.json and us_silver.json (gzipped or not): the package misaki has them in misaki/data, the
package hibari-tts in hibari/assets.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from speechmtp.g2p.assets import FOLDER, pack_lexicon


def read(folder: Path, name: str) -> dict[str, Any]:
    """A lexicon of misaki's, gzipped or not."""
    path = next(folder.glob(f"*{name}.json*"))
    data = path.read_bytes()
    entries: dict[str, Any] = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    return entries


def lexicons(folder: Path) -> None:
    """Write gold.txt.xz and silver.txt.xz; an empty reading says that a word is spelled."""
    for name in ("gold", "silver"):
        entries = read(folder, f"us_{name}")
        for word, entry in entries.items():
            if isinstance(entry, dict):
                entries[word] = {tag: phones or "" for tag, phones in entry.items()}
        path = FOLDER / f"{name}.txt.xz"
        path.write_bytes(pack_lexicon(entries))
        print(f"{path}: {len(entries)} words, {path.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["lexicon"])
    parser.add_argument("source", type=Path)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    lexicons(options.source)
