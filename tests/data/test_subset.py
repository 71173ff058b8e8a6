"""Parts of data directories: by order, length, speaker, list or chance."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from small_sets import keys, lines, segments, write_set

from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.subset import hold_out
from speechmtp.data.tables import read_table
from speechmtp.errors import DataError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--first", "3"], ["a-1", "a-2", "b-1"]),
        (["--last", "1"], ["b-2"]),
        (["--per-spk", "1"], ["a-1", "b-1"]),
        (["--hold-out", "2", "--seed", "1"], ["a-1", "a-2"]),
        (["--hold-out", "1", "--seed", "1"], ["a-1", "a-2"]),
        (["--random", "4"], ["a-1", "a-2", "b-1", "b-2"]),
    ],
)
def test_subset(good: Path, tmp_path: Path, run: Any, words: list[str], expected: list[str]) -> None:
    code, printed = run("subset", good, tmp_path / "out", *words)
    assert code == 0, printed
    found = keys(tmp_path / "out")
    if "--hold-out" in words:
        assert found in (["a-1", "a-2"], ["b-1", "b-2"])
    else:
        assert found == expected
    assert run("validate", tmp_path / "out")[0] == 0


def test_subset_of_shortest_reads_headers_without_utt2dur(good: Path, tmp_path: Path, tone: Any, run: Any) -> None:
    (good / "utt2dur").unlink()
    tone(good / "wav" / "b-1.wav", seconds=0.3)
    tone(good / "wav" / "a-2.wav", seconds=0.4)
    assert run("subset", good, tmp_path / "out", "--shortest", 2)[0] == 0
    assert keys(tmp_path / "out") == ["a-2", "b-1"]


def test_subset_by_lists(good: Path, tmp_path: Path, run: Any) -> None:
    lines(tmp_path / "spk", "b")
    lines(tmp_path / "utt", "b-2 anything", "a-1")
    assert run("subset", good, tmp_path / "s", "--spk-list", tmp_path / "spk", "--rest", tmp_path / "r")[0] == 0
    assert (keys(tmp_path / "s"), keys(tmp_path / "r")) == (["b-1", "b-2"], ["a-1", "a-2"])
    assert (tmp_path / "r" / "spk2gender").read_text() == "a f\n"
    assert run("subset", good, tmp_path / "u", "--utt-list", tmp_path / "utt")[0] == 0
    assert keys(tmp_path / "u") == ["a-1", "b-2"]
    lines(tmp_path / "utt", "a-1", "zz")
    code, printed = run("subset", good, tmp_path / "u", "--utt-list", tmp_path / "utt")
    assert code == 2
    assert f"{tmp_path / 'utt'}:2: utterance 'zz' is not in {good}" in printed


def test_seed_decides_what_is_drawn(good: Path, tmp_path: Path, run: Any) -> None:
    drawn = set()
    for seed in range(12):
        for name in ("x", "y"):
            run("subset", good, tmp_path / name, "--random", 2, "--seed", seed)
        assert keys(tmp_path / "x") == keys(tmp_path / "y")
        drawn.add(tuple(keys(tmp_path / "x")))
    assert len(drawn) > 2


def test_subset_never_takes_too_many_or_itself(good: Path, tmp_path: Path, run: Any) -> None:
    assert run("subset", good, tmp_path / "out", "--first", 5)[0] == 2
    assert run("subset", good, tmp_path / "out", "--first", 0)[0] == 2
    assert run("subset", good, good, "--first", 2)[0] == 2
    assert run("subset", good, tmp_path / "out", "--first", 2, "--rest", tmp_path / "out")[0] == 2
    assert run("subset", good, tmp_path / "out", "--hold-out", 3)[0] == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("dear")
    assert run("subset", good, tmp_path / "full", "--first", 2)[0] == 2
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "letter").read_text() == "dear"


def test_subset_replaces_an_older_one_whole(good: Path, tmp_path: Path, run: Any) -> None:
    lines(good / "extra", "a-1 x", "a-2 y", "b-1 z", "b-2 w")
    run("subset", good, tmp_path / "out", "--first", 3)
    assert read_table(tmp_path / "out" / "extra") == {"a-1": "x", "a-2": "y", "b-1": "z"}
    (good / "extra").unlink()
    run("subset", good, tmp_path / "out", "--last", 1)
    assert not (tmp_path / "out" / "extra").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "set"]


def test_subset_of_segments_keeps_their_recordings(good: Path, tmp_path: Path, run: Any) -> None:
    segments(good, "b-2 rec 1.2 -1")
    assert run("subset", good, tmp_path / "out", "--last", 1)[0] == 0
    data = read_data_dir(tmp_path / "out")
    assert data["b-2"].load().shape == (12800,)


def test_parts_hold_without_the_corpora_variable(
    good: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "corpora")
    monkeypatch.setenv("SPEECHMTP_CORPORA", str(tmp_path / "corpora"))
    run("subset", good, tmp_path / "out", "--first", 2)
    monkeypatch.delenv("SPEECHMTP_CORPORA")
    assert read_data_dir(tmp_path / "out")["a-1"].audio == f"{tmp_path}/corpora/wav/a-1.wav"
    assert read_table(tmp_path / "out" / "wav.scp")["a-1"] == "wav/a-1.wav"


def test_hold_out_is_exact_where_speakers_add_up() -> None:
    generator = random.Random(5)
    for seed in range(30):
        sizes = [generator.randint(2, 9) for _ in range(12)]
        groups = {f"s{i}": [f"s{i}-{j}" for j in range(n)] for i, n in enumerate(sizes)}
        sums = {0}
        for size in sizes:
            sums |= {s + size for s in sums}
        wanted = generator.randint(1, sum(sizes) - 10)
        chosen = hold_out(groups, wanted, seed)
        assert len(chosen) == min(s for s in sums if s >= wanted)
        taken = {key.split("-")[0] for key in chosen}
        assert sorted(chosen) == sorted(key for name in taken for key in groups[name])
        assert hold_out(groups, wanted, seed) == chosen


def test_hold_out_takes_the_nearest_number_above(good: Path, tmp_path: Path, run: Any) -> None:
    groups = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2", "b3", "b4", "b5"], "c": ["c1"] * 10}
    assert len(hold_out(groups, 4, 0)) == 5
    with pytest.raises(DataError, match="whole set"):
        hold_out({"a": ["a1", "a2"]}, 1, 0)
    code, printed = run("subset", good, tmp_path / "dev", "--hold-out", 1, "--rest", tmp_path / "train")
    assert code == 0
    assert "nearest number above" in printed
    speakers = [set(read_table(tmp_path / name / "utt2spk").values()) for name in ("dev", "train")]
    assert not speakers[0] & speakers[1]
