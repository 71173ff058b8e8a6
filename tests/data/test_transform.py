"""Subset, split, combine and statistics of data directories."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from small_sets import lines, segments, write_set

from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.split import even_runs
from speechmtp.data.subset import hold_out
from speechmtp.data.tables import read_table
from speechmtp.errors import DataError


def keys(directory: Path) -> list[str]:
    """Ids of a written set, which must be without defects and complete."""
    data = read_data_dir(directory)
    assert data["".join(list(data)[:1])].load().size > 0
    return list(data)


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


def test_combine(good: Path, tmp_path: Path, run: Any) -> None:
    run("subset", good, tmp_path / "x", "--first", 2, "--rest", tmp_path / "y")
    assert run("combine", tmp_path / "both", tmp_path / "y", tmp_path / "x")[0] == 0
    for name in ("text", "utt2spk", "spk2utt", "wav.scp", "utt2dur", "spk2gender"):
        assert (tmp_path / "both" / name).read_bytes() == (good / name).read_bytes(), name
    assert run("validate", tmp_path / "both")[0] == 0


def test_combine_refuses_an_id_twice(good: Path, tmp_path: Path, make_set: Any, run: Any) -> None:
    run("subset", good, tmp_path / "x", "--first", 3)
    code, printed = run("combine", tmp_path / "both", good, tmp_path / "x")
    assert code == 2
    assert "id 'a-1' is in another of the directories too" in printed
    assert not (tmp_path / "both").exists()


def test_combine_of_different_roots_and_segments(good: Path, tmp_path: Path, run: Any) -> None:
    other = write_set(tmp_path / "other")
    segments(other, "b-2 rec 1.2 -1")
    for name in ("text", "utt2spk"):
        rows = [line.replace("a-", "c-").replace("b-", "d-") for line in (other / name).read_text().splitlines()]
        lines(other / name, *(r.replace(" a", " c").replace(" b", " d") for r in rows))
    lines(other / "segments", "c-1 rec 0 0.4", "c-2 rec 0.4 0.8", "d-1 rec 0.8 1.2", "d-2 rec 1.2 -1")
    assert run("combine", tmp_path / "both", good, other)[0] == 0
    data = read_data_dir(tmp_path / "both")
    assert len(data) == 8
    assert data["a-1"].load().shape == (8000,)
    assert data["d-2"].load().shape == (12800,)


def test_stats(good: Path, tone: Any, run: Any) -> None:
    (good / "utt2dur").unlink()
    tone(good / "wav" / "b-2.wav", seconds=2.5)
    code, printed = run("stats", good, "--json")
    (stats,) = json.loads(printed)
    assert code == 0
    assert (stats["utterances"], stats["speakers"], stats["words"], stats["distinct_words"]) == (4, 2, 8, 5)
    assert stats["hours"] == pytest.approx(4.0 / 3600)
    assert stats["duration_percentiles"] == {
        "0": 0.5,
        "5": 0.5,
        "25": 0.5,
        "50": 0.5,
        "75": 1.0,
        "95": 2.2,
        "100": 2.5,
    }
    counts = {cell["from"]: cell["count"] for cell in stats["duration_histogram"]}
    assert counts[0.0] == 3
    assert counts[2.0] == 1
    assert stats["characters"]["L"] == 8
    code, printed = run("stats", good)
    assert code == 0
    assert "utterances 4, 0.001 h, speakers 2" in printed
    assert "L 8" in printed
