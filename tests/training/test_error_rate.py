"""Error rates of development sets: sums of edits over sums of reference lengths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmtp.training.error_rate import count_errors, error_rate


def edits(reference: list[int], found: list[int]) -> int:
    """The edit distance by the plain table."""
    row = list(range(len(found) + 1))
    for i, a in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(found, 1):
            before, row[j] = row[j], min(before + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], (0, 0)),
        ([([], [])], (0, 0)),
        ([([], [1, 2])], (2, 0)),
        ([([1, 2, 3], [1, 3])], (1, 3)),
        ([("abc", "axc"), ("de", "de")], (1, 5)),
        ([(["the", "hen"], ["the", "hens", "sat"])], (2, 2)),
    ],
)
def test_errors_and_lengths_are_summed(pairs: list, expected: tuple[int, int]) -> None:
    assert count_errors(pairs) == count_errors(iter(pairs)) == expected
    assert error_rate(pairs) == 100 * expected[0] / max(1, expected[1])


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 3), max_size=6)), max_size=5)
)
def test_counts_are_those_of_the_plain_table(pairs: list[tuple[list[int], list[int]]]) -> None:
    assert count_errors(pairs) == (sum(edits(a, b) for a, b in pairs), sum(len(a) for a, _ in pairs))


def test_long_references_weigh_more() -> None:
    assert error_rate([("a" * 8, "a" * 8), ("bb", "")]) == 20.0
