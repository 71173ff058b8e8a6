"""Training data of voices: units, their durations and the speech tokens of every utterance of a data directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechmtp.errors import DataError
from speechmtp.g2p.symbols import PAD, SYMBOLS

FRAMES = 2  # frames of 12.5 ms in one of a data directory's `frames` of 25 ms


@dataclass(frozen=True)
class Spoken:
    """One utterance: unit `ids`, the index of each one's word, its duration in frames of 12.5 ms, and the speech
    `tokens`; `speed` is that of the speech."""

    ids: Sequence[int]
    words: Sequence[int]
    frames: Sequence[int]
    tokens: Sequence[int]
    speed: float = 1.0


def words_of(phones: str) -> list[int]:
    """The word of every symbol of `phones` and of the pads around it: words are parted by blanks, and a blank belongs
    to the word before it."""
    word, found = 0, [0]
    for i, symbol in enumerate(phones):
        found.append(word)
        word += symbol == " " and i + 1 < len(phones)
    return [*found, found[-1]]


def read_value_table(path: Path) -> dict[str, str]:
    """A table whose values keep all their blanks: key, one blank, value."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}, a table is expected here") from error
    return {key: value for key, _, value in (line.partition(" ") for line in lines if line)}


def lost_words(phones: str) -> bool:
    """Whether blanks show that the recording lost words: they stand first or twice."""
    return phones.startswith(" ") or "  " in phones


def read_spoken(folder: Path, tokens: Path | None = None) -> list[Spoken]:
    """The utterances of a data directory with `phones`, `frames` and `tokens` (or the table `tokens`), without those
    that lost words. DataError for tables that do not fit each other."""
    phones, frames = read_value_table(folder / "phones"), read_value_table(folder / "frames")
    codes = read_value_table(tokens or folder / "tokens")
    speeds = read_value_table(folder / "utt2speed") if (folder / "utt2speed").exists() else {}
    found = []
    for key, spelled in phones.items():
        if lost_words(spelled) or key not in codes:
            continue
        lengths = [FRAMES * int(n) for n in frames[key].split()]
        try:
            ids = [PAD, *(SYMBOLS[symbol] for symbol in spelled), PAD]
        except KeyError as error:
            raise DataError(f"{folder / 'phones'}: {key}: {error} is no symbol of units; see g2p/symbols.py") from error
        if len(lengths) != len(ids):
            raise DataError(f"{folder / 'frames'}: {key}: {len(lengths)} durations for {len(ids)} units")
        spoken = [int(n) for n in codes[key].split()]
        found.append(Spoken(ids, words_of(spelled), lengths, spoken, float(speeds.get(key, 1.0))))
    if not found:
        raise DataError(f"{folder}: no utterance with phones, frames and tokens")
    return found
