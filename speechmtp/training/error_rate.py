"""Error rates of tokens, words or characters from edit distances."""

from collections.abc import Hashable, Iterable, Sequence

from rapidfuzz.distance import Levenshtein

Pair = tuple[Sequence[Hashable], Sequence[Hashable]]


def count_errors(pairs: Iterable[Pair]) -> tuple[int, int]:
    """Count the errors (substitutions, deletions and insertions) and the total length of the references in
    (reference, hypothesis) pairs."""
    errors = length = 0
    for reference, found in pairs:
        errors += Levenshtein.distance(reference, found)
        length += len(reference)
    return errors, length


def error_rate(pairs: Iterable[Pair]) -> float:
    """The error rate in percent of (reference, hypothesis) pairs: errors divided by the total length of the references,
    which is at least 1."""
    errors, length = count_errors(pairs)
    return 100 * errors / max(1, length)
