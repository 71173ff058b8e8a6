"""The files of a Kaldi data directory: its tables, their numbers of fields and their kinds of key."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

# Table -> (minimum, maximum) number of fields of a line, including the key; None: no maximum.
TABLES: dict[str, tuple[int, int | None]] = {
    "wav.scp": (2, None),
    "segments": (4, 5),
    "text": (1, None),
    "text.raw": (1, None),
    "utt2spk": (2, 2),
    "spk2utt": (2, None),
    "spk2gender": (2, 2),
    "utt2dur": (2, 2),
    "reco2dur": (2, 2),
    "utt2num_samples": (2, 2),
    "reco2file_and_channel": (3, 3),
    "utt2lang": (2, 2),
    "utt2uniq": (2, 2),
    "codes.scp": (2, None),
}
# Optional tables with one line per utterance: derived from others, or descriptions of the utterances.
UTTERANCE_EXTRAS = ("utt2dur", "utt2num_samples", "utt2lang", "utt2uniq", "text.raw", "codes.scp")

_NO_TABLES = (".json", ".jsonl", ".md", ".txt", ".tsv", ".log", ".gz")


def read_contents(directory: Path) -> dict[str, bytes]:
    """File name -> bytes of every visible regular file that may be a table (info.json is not)."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _NO_TABLES
    }


def is_of_utterances(name: str, keys: Collection[str], utterances: set[str], segmented: bool) -> bool:
    """Whether a table has one line per utterance: by its name if known, else because all its keys are utterance ids.

    `segmented` means that utterances are parts of recordings, so that wav.scp has one line per recording.
    """
    if name == "wav.scp":
        return not segmented
    if name.startswith(("utt2", "text")) or name in ("segments", "codes.scp"):
        return True
    if name.startswith(("spk2", "reco2")):
        return False
    return bool(keys) and utterances.issuperset(keys)
