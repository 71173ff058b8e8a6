"""Error rates of tokens, words or characters on development sets, from edit distances."""

from collections.abc import Hashable, Iterable, Sequence

from rapidfuzz.distance import Levenshtein

Pair = tuple[Sequence[Hashable], Sequence[Hashable]]


def count_errors(pairs: Iterable[Pair]) -> tuple[int, int]:
    """Substitutions, deletions and insertions, and the length of the references, of all (reference, found) pairs."""
    errors = length = 0
    for reference, found in pairs:
        errors += Levenshtein.distance(reference, found)
        length += len(reference)
    return errors, length


def error_rate(pairs: Iterable[Pair]) -> float:
    """Errors over the length of the references, in percent, of all (reference, found) pairs; empty references count as
    one unit."""
    errors, length = count_errors(pairs)
    return 100 * errors / max(1, length)
