"""Which words stay: those on which passes in a row agree."""

import math

import pytest

from speechmtp.streaming.agreement import Agreement, bare

WORDS = [" a", " b", " c", " d", ".", ",", " A", "x", "<end>"]
END = len(WORDS) - 1


def decode(ids: object) -> str:
    """Join pieces; a text does not begin with a space."""
    return "".join(WORDS[i] for i in ids).removeprefix(" ")  # type: ignore[attr-defined]


def of(text: str) -> list[int]:
    """Token ids of pieces that are written with a bar between them."""
    return [WORDS.index(piece) for piece in text.split("|")] if text else []


def run(passes: list[str], sure: float = 0.0, needed: int = 2, probability: float = 1.0) -> list[list[str]]:
    """The words that each pass commits; passes say what stands behind the committed words."""
    agreement, found = Agreement(decode, (END,), needed, sure), []
    for text in passes:
        tokens, before = of(text), list(agreement.committed)
        agreement.take([*tokens, END], [math.log(probability)] * (len(tokens) + 1))
        found.append([word.text for word in agreement.commit()])
        assert agreement.committed + agreement.tail == before + tokens
    return found


@pytest.mark.parametrize(
    ("passes", "committed"),
    [
        ([" a", " a| b", " b| c"], [[], ["a"], ["b"]]),
        ([" a| b", " a| b", " c"], [[], ["a", "b"], []]),
        ([" a| b", " c| b", " c| b"], [[], [], ["c", "b"]]),  # agreement ends at the first difference
        ([" a|.", " a| b", " b"], [[], ["a"], ["b"]]),  # punctuation may change where another word follows
        ([" a|.", " a", " a"], [[], [], ["a"]]),  # at the end it may not
        ([" a", " A| b"], [[], ["A"]]),  # nor does case matter, and the later one stays
        ([" a", " a|x| b", " a|x| b"], [[], [], ["ax", "b"]]),  # a word that goes on is another one
        ([" a", " b", " a"], [[], [], []]),
        ([" a|.", " a|.", ".", ".| b", ".| b"], [[], ["a"], [], [], ["b"]]),  # a full stop may be invented at the end
        ([" a", "", " a"], [[], [], []]),
    ],
)
def test_words_of_two_passes_stay(passes: list[str], committed: list[list[str]]) -> None:
    assert run(passes) == committed


def test_unsure_words_need_another_pass() -> None:
    assert run([" a", " a", " a"], sure=0.6, probability=0.5) == [[], [], ["a"]]
    assert run([" a", " a", " a"], sure=0.4, probability=0.5) == [[], ["a"], []]
    assert run([" a"] * 4, needed=3) == [[], [], ["a"], []]


def test_in_the_end_all_words_stay_and_confidence_is_that_of_their_tokens() -> None:
    agreement = Agreement(decode, (END,))
    agreement.take(of(" a| b|,"), [math.log(0.5), math.log(0.25), math.log(0.5), 0.0])
    words = agreement.commit(final=True)
    assert [word.text for word in words] == ["a", "b,"]
    assert [agreement.confidence(word) for word in words] == pytest.approx([0.5, 0.125])
    assert agreement.tail == [] and agreement.commit(final=True) == []


def test_what_a_word_is_without_case_and_punctuation() -> None:
    assert [bare(text) for text in ("Mars.", "'Tis", "“Oh!”", "...", "don't", "3.5")] == [
        "mars", "tis", "oh", "...", "don't", "3.5",
    ]  # fmt: skip
