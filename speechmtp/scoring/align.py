"""Alignment of words or characters; every count, table and file of a scoring is derived from it."""

from collections.abc import Sequence

import numpy as np

Pair = tuple[str | None, str | None]

_DIAGONAL, _DELETION, _INSERTION = 0, 1, 2


def align(ref: Sequence[str], hyp: Sequence[str], *, sclite: bool = False) -> list[Pair]:
    """The alignment of least cost as (reference, hypothesis) pairs; None stands for the missing side.

    Substitutions, deletions and insertions cost 1 each. Traced back from the end, ties prefer a match, then a
    substitution, a deletion, an insertion (the order of Kaldi's `align-text`). With `sclite` they cost 4, 3 and 3 and
    insertions are preferred to deletions (NIST sclite); totals can then exceed the edit distance.
    """
    # An equal last pair is on a best path and wins every tie, so equal ends need no table. This does not hold
    # for equal starts: "a b" against "a a b" inserts the first a.
    n, m = len(ref), len(hyp)
    while n and m and ref[n - 1] == hyp[m - 1]:
        n, m = n - 1, m - 1
    pairs: list[Pair] = []
    if n and m:
        ids: dict[str, int] = {}
        codes = [ids.setdefault(token, len(ids)) for token in (*ref[:n], *hyp[:m])]
        moves = _moves(np.array(codes[:n]), np.array(codes[n:]), sclite)
        width, i, j = m + 1, n, m
        while i or j:
            move = moves[i * width + j]
            i, j = i - (move != _INSERTION), j - (move != _DELETION)
            pairs.append((None if move == _INSERTION else ref[i], None if move == _DELETION else hyp[j]))
        pairs.reverse()
    else:
        pairs.extend((token, None) for token in ref[:n])
        pairs.extend((None, token) for token in hyp[:m])
    pairs.extend(zip(ref[n:], hyp[m:], strict=True))
    return pairs


def operation(pair: Pair) -> str:
    """The kind of an aligned pair: `C` (correct), `S`, `D` or `I`."""
    ref, hyp = pair
    if ref is None:
        return "I"
    if hyp is None:
        return "D"
    return "C" if ref == hyp else "S"


def _moves(ref: np.ndarray, hyp: np.ndarray, sclite: bool) -> bytes:
    """The last step of a best path into each cell, [(n + 1) * (m + 1)] bytes, row by row.

    `ref` [n] and `hyp` [m] are token ids. Each row is vectorised: the running minimum of cost minus column cost covers
    insertions of any number.
    """
    substitution, gap = (4, 3) if sclite else (1, 1)
    n, m = len(ref), len(hyp)
    moves = np.empty((n + 1, m + 1), dtype=np.uint8)
    moves[0], moves[1:, 0] = _INSERTION, _DELETION
    steps = np.arange(m + 1, dtype=np.int32) * gap
    row = steps
    for i in range(n):
        diagonal = row[:-1] + (hyp != ref[i]) * np.int32(substitution)
        best = row + gap
        down = best[1:].copy()
        np.minimum(best[1:], diagonal, out=best[1:])
        row = np.minimum.accumulate(best - steps) + steps
        cells = row[1:]
        if sclite:
            other = np.where(row[:-1] + gap == cells, _INSERTION, _DELETION)
        else:
            other = np.where(down == cells, _DELETION, _INSERTION)
        moves[i + 1, 1:] = np.where(diagonal == cells, _DIAGONAL, other)
    return moves.tobytes()
