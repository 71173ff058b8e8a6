"""Training data of voices: units, their durations and the speech tokens of every utterance of a data directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechmtp.codec.contract import Spans
from speechmtp.data.kaldi import DataDir
from speechmtp.errors import DataError
from speechmtp.g2p.symbols import PAD, SYMBOLS

TABLES = ("phones", "frames", "tokens")  # what is learnt from
FRAMES = 2  # frames of 12.5 ms in one of a data directory's `frames` of 25 ms


@dataclass(frozen=True)
class Spoken:
    """One utterance: unit `ids`, the index of each one's word, its duration in frames of 12.5 ms, and the speech
    `tokens`; `speed` is that of the speech."""

    ids: np.ndarray
    words: np.ndarray
    frames: np.ndarray
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


def read_spans(data: DataDir) -> dict[str, Spans]:
    """The spans of a data directory's utterances, by `phones` and `frames` (of 25 ms); those that lost words are left
    out. DataError for tables that are missing or do not fit each other."""
    phones, frames = (read_value_table(data.path / name) for name in ("phones", "frames"))
    found = {}
    for key in data:
        if key not in phones or key not in frames:
            raise DataError(f"{data.path}: {key} has no line in phones or frames; add it or drop the utterance")
        if not lost_words(phones[key]):
            found[key] = spans_of(phones[key], frames[key], f"{data.path / 'phones'}: {key}")
    if not found:
        raise DataError(f"{data.path}: no utterance with phones and frames, expected at least one")
    return found


def spans_of(phones: str, frames: str, where: str) -> Spans:
    """The spans of one line of `phones` and of `frames`; DataError if they do not fit, beginning with `where`."""
    unknown = next((symbol for symbol in phones if symbol not in SYMBOLS), None)
    if unknown is not None:
        raise DataError(f"{where}: {unknown!r} is no unit, expected the symbols of speechmtp/g2p/symbols.py")
    try:
        lengths = [FRAMES * int(number) for number in frames.split()]
    except ValueError as error:
        raise DataError(f"{where}: frames {frames[:40]!r}, expected whole numbers of 25 ms") from error
    if len(lengths) != len(phones) + 2:
        raise DataError(
            f"{where}: {len(lengths)} frames for {len(phones)} phones, expected one more before and one behind"
        )
    ids = [PAD, *(SYMBOLS[symbol] for symbol in phones), PAD]
    return Spans(np.array(ids), np.array(words_of(phones)), np.array(lengths))


def read_codes(data: DataDir, size: int, tokens: Path | None = None) -> dict[str, tuple[Spans, list[int]]]:
    """The spans and the tokens of the utterances that have a line in the table `tokens` (default: that of the data
    directory). DataError for lines that do not fit the spans, and for tokens of `size` or more."""
    table = tokens or data.path / "tokens"
    codes, found = read_value_table(table), {}
    for key, spans in read_spans(data).items():
        if key not in codes:
            continue
        ids = [int(number) for number in codes[key].split()]
        if len(ids) != spans.tokens or min(ids) < 0 or max(ids) >= size:
            raise DataError(
                f"{table}: {key}: {len(ids)} tokens up to {max(ids, default=0)}, expected {spans.tokens} below {size}; "
                "encode the directory again"
            )
        found[key] = spans, ids
    if not found:
        raise DataError(f"{table}: no tokens of the utterances of {data.path}; encode the directory")
    return found


def read_spoken(data: DataDir, size: int) -> list[Spoken]:
    """The utterances of a data directory with `phones`, `frames` and `tokens`, in byte order."""
    table = data.path / "utt2speed"
    speeds = read_value_table(table) if table.exists() else {}
    return [
        Spoken(spans.ids, spans.words, spans.frames, tokens, _speed(table, key, speeds.get(key, "1")))
        for key, (spans, tokens) in read_codes(data, size).items()
    ]


def _speed(table: Path, key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise DataError(f"{table}: {key}: {value!r}, expected a number") from None
