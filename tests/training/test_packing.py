"""Packing of texts into rows: nothing is lost, rows are full where texts may be cut, positions start with each text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechmtp.training.packing import Piece, fill_rows, pack_rows, positions_in

lengths_of = st.lists(st.integers(0, 9), max_size=12)


def spans(rows: list[list[Piece]]) -> list[tuple[int, int, int]]:
    """Text, begin and end of every piece in order."""
    return [(piece.text, piece.begin, piece.end) for row in rows for piece in row]


def test_whole_texts_go_to_the_next_row_where_they_do_not_fit() -> None:
    rows = pack_rows([3, 4, 2, 5], [0, 1, 2, 3], 5, cut=False)
    assert [[piece.text for piece in row] for row in rows] == [[0], [1], [2], [3]]
    rows = pack_rows([3, 4, 2, 5], [0, 2, 3, 1], 5, cut=False)
    assert [[piece.text for piece in row] for row in rows] == [[0, 2], [3], [1]]
    assert [piece.place for piece in rows[0]] == [0, 1]


def test_cut_texts_go_on_in_the_next_row() -> None:
    rows = pack_rows([3, 9, 2], [2, 1, 0], 4, cut=True)
    assert spans(rows) == [(2, 0, 2), (1, 0, 2), (1, 2, 6), (1, 6, 9), (0, 0, 1), (0, 1, 3)]
    assert [[piece.place for piece in row] for row in rows] == [[0, 1], [0], [0, 1], [0]]


@pytest.mark.parametrize("cut", [False, True])
def test_nothing_makes_no_row(cut: bool) -> None:
    assert pack_rows([], [], 4, cut) == [] and pack_rows([0, 0], [1, 0], 4, cut) == []


@given(lengths_of, st.integers(1, 9), st.randoms(use_true_random=False))
def test_cut_rows_are_full_and_hold_every_token_in_order(lengths: list[int], size: int, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(lengths)))
    random.shuffle(order)
    rows = pack_rows(lengths, order, size, cut=True)
    tokens = [(piece.text, n) for row in rows for piece in row for n in range(piece.begin, piece.end)]
    assert tokens == [(text, n) for text in order for n in range(lengths[text])]
    assert all(sum(piece.end - piece.begin for piece in row) == size for row in rows[:-1])


@given(lengths_of, st.integers(9, 20), st.randoms(use_true_random=False))
def test_whole_rows_never_exceed_their_size(lengths: list[int], size: int, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(lengths)))
    random.shuffle(order)
    rows = pack_rows(lengths, order, size, cut=False)
    assert spans(rows) == [(text, 0, lengths[text]) for text in order if lengths[text]]
    used = [sum(piece.end - piece.begin for piece in row) for row in rows]
    assert all(0 < total <= size for total in used)
    for total, behind in zip(used, rows[1:]):
        assert total + behind[0].end > size  # the next text had no room


def test_rows_are_filled_with_tokens_numbers_and_padding() -> None:
    texts = [[5, 6, 7], [8, 9, 10, 11]]
    rows = pack_rows([3, 4], [1, 0], 5, cut=True)
    ids = fill_rows(rows, 5, -1, lambda piece: texts[piece.text][piece.begin : piece.end])
    assert ids.tolist() == [[8, 9, 10, 11, 5], [6, 7, -1, -1, -1]] and ids.dtype == torch.long
    assert fill_rows(rows, 5, -1, lambda piece: piece.text).tolist() == [[1, 1, 1, 1, 0], [0, 0, -1, -1, -1]]
    assert fill_rows(rows, 5, 9, lambda piece: piece.place).tolist() == [[0, 0, 0, 0, 1], [0, 0, 9, 9, 9]]
    assert fill_rows([], 5, 0, lambda piece: 1).shape == (0, 5)


def test_positions_start_wherever_the_number_changes() -> None:
    segments = torch.tensor([[4, 4, 4, 2, 2, -1, -1], [0, 1, 1, 1, 1, 1, 1]])
    assert positions_in(segments).tolist() == [[0, 1, 2, 0, 1, 0, 1], [0, 0, 1, 2, 3, 4, 5]]
