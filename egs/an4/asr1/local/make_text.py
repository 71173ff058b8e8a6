#!/usr/bin/env python3
"""Sentences like AN4's for the text-only stage, made from the training transcripts alone.

Four sources: walks through the word bigrams of the training transcripts; words spelled letter by letter
(from a word list, if one is given); words of the vocabulary at random; training transcripts with words
exchanged for others of their kind. Test and development transcripts are never read; lines that equal one
are not filtered out either, since that would take reading them.
"""

import argparse
import collections
import gzip
import random
from pathlib import Path

MONTHS = "JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER".split()
DIGITS = "ZERO OH ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
TEENS = "TEN ELEVEN TWELVE THIRTEEN FOURTEEN FIFTEEN SIXTEEN SEVENTEEN EIGHTEEN NINETEEN".split()
TENS = "TWENTY THIRTY FORTY FIFTY SIXTY SEVENTY EIGHTY NINETY".split()
ORDINALS = (
    "FIRST SECOND THIRD FOURTH FIFTH SIXTH SEVENTH EIGHTH NINTH TENTH ELEVENTH TWELFTH THIRTEENTH FOURTEENTH "
    "FIFTEENTH SIXTEENTH SEVENTEENTH EIGHTEENTH NINETEENTH TWENTIETH THIRTIETH"
).split()
LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
KINDS = [MONTHS, DIGITS, TEENS, TENS, ORDINALS, LETTERS]


def read_transcripts(path: Path) -> list[list[str]]:
    """Words of every line, without the ids."""
    return [line.split()[1:] for line in path.read_text(encoding="utf-8").splitlines() if len(line.split()) > 1]


def read_words(path: Path | None) -> list[str]:
    """Words of letters only, from plain or gzipped text."""
    if path is None:
        return []
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        words = {word for line in file for word in line.upper().split() if word.isascii() and word.isalpha()}
    return sorted(word for word in words if 2 <= len(word) <= 12)


class Bigrams:
    """Walks through the word bigrams of some sentences."""

    def __init__(self, sentences: list[list[str]]) -> None:
        self._next: dict[str, list[str]] = collections.defaultdict(list)
        for words in sentences:
            for left, right in zip(["<s>", *words], [*words, "</s>"]):
                self._next[left].append(right)

    def walk(self, random_: random.Random) -> list[str]:
        """One sentence of at most 14 words."""
        words: list[str] = []
        word = random_.choice(self._next["<s>"])
        while word != "</s>" and len(words) < 14:
            words.append(word)
            word = random_.choice(self._next[word])
        return words


def exchange(words: list[str], known: set[str], random_: random.Random) -> list[str]:
    """Half of the words replaced by others of their kind that the training transcripts have."""
    out = []
    for word in words:
        kind = next((k for k in KINDS if word in k), None)
        if kind is not None and random_.random() < 0.5:
            word = random_.choice([w for w in kind if w in known] or [word])
        out.append(word)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="text file of the training data directory")
    parser.add_argument("--words", type=Path, help="words to spell: any text, plain or gzipped")
    parser.add_argument("--lines", type=int, default=60000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    random_ = random.Random(args.seed)
    sentences = read_transcripts(args.train)
    known = {word for words in sentences for word in words}
    vocabulary = sorted(known)
    bigrams, spelled = Bigrams(sentences), read_words(args.words)
    sources = [
        (4, lambda: bigrams.walk(random_)),
        (3, lambda: exchange(random_.choice(sentences), known, random_)),
        (1, lambda: [random_.choice(vocabulary) for _ in range(random_.randint(1, 8))]),
    ]
    if spelled:
        sources.append((2, lambda: list(random_.choice(spelled))))
    weights, makers = zip(*sources)
    lines = []
    while len(lines) < args.lines:
        words = random_.choices(makers, weights)[0]()
        if words and set("".join(words)) <= set("".join(known)):
            lines.append(" ".join(words))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
