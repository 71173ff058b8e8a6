"""Words of a text placed by CTC posteriors of characters."""

import numpy as np
import pytest

from speechmtp.words.ctc_alignment import CHARACTER_LAG, align_characters
from speechmtp.words.group import split_words

CHARACTERS = " 'ABabcdt.5"
HOP = 0.024


def posteriors(said: str) -> np.ndarray:
    """Log probabilities of a head that is sure of one character a step; `_` is the blank."""
    place = {**{one: n for n, one in enumerate(CHARACTERS)}, "_": len(CHARACTERS)}
    probs = np.full((len(said), len(CHARACTERS) + 1), 0.001)
    probs[np.arange(len(said)), [place[one] for one in said]] = 1.0
    return np.log(probs / probs.sum(1, keepdims=True)).astype(np.float32)


def states(said: str, text: str) -> list[tuple[float, float]]:
    """First and last step of each word but the first."""
    found = align_characters(posteriors(said), CHARACTERS, text, split_words(text), HOP)
    return [
        (round((start - CHARACTER_LAG.start) / HOP, 3), round((end - CHARACTER_LAG.end) / HOP - 1, 3))
        for start, end in found[1:]
    ]


@pytest.mark.parametrize(
    ("said", "text", "wanted"),
    [
        ("_a__ _b_c__", "a bc", [(6, 8)]),
        ("_A__ _b_C__".replace("C", "c"), "a BC", [(6, 8)]),  # either case is the other
        ("_a_. _'b_.__", "a. 'b.", [(7, 7)]),  # punctuation takes no part
        ("_a__ _b_t__", "a bé", [(6, 8)]),  # what the head lacks may be any letter
        ("_a__ _b____ c", "a b – c", [(6, 6), (12, 12)]),  # or nothing
        ("_a__ _a_ _b", "a à b", [(6, 6), (10, 10)]),  # accents are left out
        ("_a_ b_ 55_5_5", "a b 555", [(4, 4), (7, 12)]),
    ],
)
def test_states_of_words(said: str, text: str, wanted: list[tuple[int, int]]) -> None:
    assert states(said, text) == wanted


def test_the_first_word_starts_by_its_second_label() -> None:
    for silence in (3, 9):
        said = "_a" + "_" * silence + "b_ c"
        [(start, _), _] = align_characters(posteriors(said), CHARACTERS, "ab c", split_words("ab c"), HOP)
        assert start == pytest.approx((2 + silence) * HOP)


def test_words_without_any_label_lie_behind_the_one_before() -> None:
    before, none, _ = align_characters(posteriors("_a_ b"), CHARACTERS, "a ; b", [(0, 1), (2, 3), (4, 5)], HOP)
    assert none == (before[1], before[1])
