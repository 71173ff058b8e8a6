"""The aligner: tie rules, invariants, sclite's costs, and agreement with a plain table and with jiwer."""

import random
import time
from collections.abc import Sequence
from functools import cache

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from speechmtp.scoring.align import align, operation
from speechmtp.scoring.wer import count

WORDS = st.lists(st.sampled_from("abcd"), max_size=9)


def operations(ref: str, hyp: str, sclite: bool = False) -> str:
    return "".join(operation(pair) for pair in align(ref.split(), hyp.split(), sclite=sclite))


def cheapest(ref: Sequence[str], hyp: Sequence[str], sub: int, gap: int) -> int:
    """The least cost by plain recursion: another way to the same number."""

    @cache
    def cost(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return gap * (i + j)
        same = 0 if ref[i - 1] == hyp[j - 1] else sub
        return min(cost(i - 1, j - 1) + same, cost(i - 1, j) + gap, cost(i, j - 1) + gap)

    return cost(len(ref), len(hyp))


@pytest.mark.parametrize(
    ("ref", "hyp", "expected"),
    [
        ("a b", "b a", "SS"),  # align-text's rule; compute-wer and sclite find an insertion and a deletion
        ("a b", "a a b", "ICC"),
        ("a a b", "a b", "DCC"),
        ("a b c", "x c", "DSC"),
        ("x c", "a b c", "ISC"),
        ("a b a", "b a b", "ICCD"),  # a deletion and an insertion tie, and no substitution is as good
        ("", "a b", "II"),
        ("a b", "", "DD"),
        ("", "", ""),
        ("a b c", "a b c", "CCC"),
    ],
)
def test_ties_go_to_match_then_sub_then_del_then_ins(ref: str, hyp: str, expected: str) -> None:
    assert operations(ref, hyp) == expected


def test_sclite_costs_find_other_totals() -> None:
    ref, hyp = ["a", "c", "d", "e", "f"], ["e", "b", "f", "e"]
    assert count(align(ref, hyp)).errors == 4
    assert count(align(ref, hyp, sclite=True)).errors == 5
    swapped = count(align(["a", "b"], ["b", "a"], sclite=True))
    assert (swapped.hits, swapped.sub, swapped.del_, swapped.ins) == (1, 0, 1, 1)


def test_sclite_ties_go_to_insertion_before_deletion() -> None:
    # from the end b's insertion comes before a's deletion, so the latter stands first
    assert operations("a b", "b a", sclite=True) == "DCI"
    assert operations("a b a", "b a b", sclite=True) == "DCCI"


@given(WORDS, WORDS)
def test_invariants_and_least_cost(ref: list[str], hyp: list[str]) -> None:
    for sclite, sub, gap in ((False, 1, 1), (True, 4, 3)):
        pairs = align(ref, hyp, sclite=sclite)
        assert [r for r, _ in pairs if r is not None] == ref
        assert [h for _, h in pairs if h is not None] == hyp
        c = count(pairs)
        assert c.hits + c.sub + c.del_ == c.ref_words == len(ref)
        assert c.hits + c.sub + c.ins == c.hyp_words == len(hyp)
        assert sub * c.sub + gap * (c.del_ + c.ins) == cheapest(ref, hyp, sub, gap)


@given(st.text("abé 你", max_size=12), st.text("abé 你", max_size=12))
def test_the_distance_of_characters_is_the_aligner_s(ref: str, hyp: str) -> None:
    assert Levenshtein.distance(ref, hyp) == count(align(ref, hyp)).errors


def test_totals_equal_jiwer_s_on_random_pairs() -> None:
    rng = random.Random(1)
    words = jiwer.ReduceToListOfListOfWords()
    for _ in range(300):
        ref, hyp = (rng.choices("abcdef", k=rng.randint(0, 12)) for _ in range(2))
        theirs = jiwer.process_words(" ".join(ref), " ".join(hyp), words, words)
        ours = count(align(ref, hyp))
        assert ours.errors == theirs.substitutions + theirs.deletions + theirs.insertions


def test_a_test_set_is_aligned_at_once() -> None:
    rng = random.Random(2)
    pairs = [[rng.choices("abcdefgh", k=8) for _ in range(2)] for _ in range(130)]
    start = time.process_time()
    for ref, hyp in pairs:
        align(ref, hyp)
    assert time.process_time() - start < 0.5  # takes about 0.02 s


def test_rapidfuzz_counts_some_ties_otherwise() -> None:
    """Why alignments are ours and only distances are rapidfuzz's: several paths may cost the least."""
    ours, theirs = count(align(["a", "b"], ["b", "a"])), Levenshtein.editops("ab", "ba")
    assert (ours.sub, ours.del_, ours.ins) == (2, 0, 0)
    assert sorted(step.tag for step in theirs) == ["delete", "insert"] and len(theirs) == ours.errors
