"""Splitting into parts of one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_sets import keys

from speechmtp.data.split import even_runs


def test_split_by_speaker_and_by_utterance(good: Path, run: Any) -> None:
    code, printed = run("split", good, 2)
    assert (code, printed) == (0, f"{good}/split2/1\n{good}/split2/2\n")
    assert [keys(good / "split2" / n) for n in "12"] == [["a-1", "a-2"], ["b-1", "b-2"]]
    assert run("split", good, 3)[0] == 2
    assert run("split", good, 0)[0] == 2
    assert run("split", good, 4, "--per-utt")[0] == 0
    assert [keys(good / "split4utt" / n) for n in "1234"] == [["a-1"], ["a-2"], ["b-1"], ["b-2"]]


@pytest.mark.parametrize("sizes", [[1] * 7, [9, 1, 1, 1], [1, 1, 1, 9], [3, 5, 2, 8, 1, 4, 4], [5] * 4])
def test_runs_are_whole_in_order_and_none_is_empty(sizes: list[int]) -> None:
    groups = [[f"{i}-{j}" for j in range(size)] for i, size in enumerate(sizes)]
    for parts in range(1, len(groups) + 1):
        runs = even_runs(groups, parts)
        assert len(runs) == parts
        assert all(runs)
        assert [key for part in runs for key in part] == [key for group in groups for key in group]
        owners = [{key.split("-")[0] for key in part} for part in runs]
        assert sum(len(owner) for owner in owners) == len(groups)
