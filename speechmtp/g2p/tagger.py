"""Parts of speech, as far as the sound of words depends on them: an averaged perceptron, from left to right."""

from collections.abc import Sequence

import numpy as np

TAGS = "NN NNP VB VBD VBN VBP VBZ VBG JJ RB IN DT PRP TO CD MD CC X".split()
_START = ("-1", "-2")  # the tags before the first word


def shape(word: str) -> str:
    """How a word is written: small letters, capital first, capitals, mixed, other."""
    if not word.isalpha():
        return "-" if any(one.isalpha() for one in word) else "."
    if word.islower():
        return "x"
    if word.isupper():
        return "XX" if len(word) > 1 else "X"
    return "Xx" if word[1:].islower() else "xX"


def features(words: Sequence[str], i: int, last: str, before: str) -> list[str]:
    """What the tag of word i may depend on: the word, its neighbours (in small letters) and the two tags before it."""
    one = words[i].lower()
    left = words[i - 1].lower() if i else ""
    left2 = words[i - 2].lower() if i > 1 else ""
    right = words[i + 1].lower() if i + 1 < len(words) else ""
    right2 = words[i + 2].lower() if i + 2 < len(words) else ""
    return [
        "b", f"w{one}", f"s{one[-3:]}", f"z{one[-2:]}", f"p{one[:2]}", f"c{shape(words[i])}{'' if i else '^'}",
        f"t{last}", f"u{before} {last}", f"l{left}", f"k{left2}", f"r{right}", f"q{right2}", f"e{right[-3:]}",
        f"m{last} {one}", f"f{left[-3:]}", f"n{one} {right}", f"v{left} {one}",
    ]  # fmt: skip


class Tagger:
    """Tags of words.

    Arguments:
        rows: the row of `weights` of every known feature
        weights: [features, tags] (int8)
    """

    def __init__(self, rows: dict[str, int], weights: np.ndarray) -> None:
        self.rows, self.weights = rows, weights

    def __call__(self, words: Sequence[str]) -> list[str]:
        """One of `TAGS` for every word or mark of a sentence."""
        before, last = _START
        found = []
        for i in range(len(words)):
            rows = [self.rows[name] for name in features(words, i, last, before) if name in self.rows]
            tag = TAGS[int(self.weights[rows].sum(0, dtype=np.int32).argmax())]
            found.append(tag)
            before, last = last, tag
        return found
