"""Speed beside others: shares of recordings, tables, tools that are not installed, and this project's own side."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from scripts import EXAMPLES, ROOT, imported

from speechmtp.data.kaldi import read_data_dir
from speechmtp.errors import ConfigError


@pytest.fixture
def scripts() -> Iterator[Any]:
    """The script and its side."""
    with imported("peers", "peers_side") as modules:
        yield modules


def test_shares_are_nearly_equal(scripts: Any) -> None:
    script, _ = scripts
    seconds = {name: float(n) for n, name in enumerate("abcdef", 1)}
    parts = script.shared_out(seconds, 2)
    assert sorted(name for part in parts for name in part) == list("abcdef")
    assert sorted(sum(seconds[name] for name in part) for part in parts) == [10.0, 11.0]


def row_of(script: Any, name: str, wall: list[float], decoder: list[float]) -> Any:
    """A row whose texts are those of the examples, with times of every recording."""
    row = script.Row(name, script.Side("here", ROOT), "speechmtp", "")
    row.texts = read_data_dir(EXAMPLES).transcripts()
    for one in row.texts:
        row.wall[one], row.processor[one] = wall, [0.5 * each for each in wall]
        if decoder:
            row.decoder[one] = decoder
    return row


def test_the_table_of_one_thread_has_medians(scripts: Any) -> None:
    script, _ = scripts
    data = read_data_dir(EXAMPLES)
    seconds = dict.fromkeys(data, 3.0)
    rows = [
        row_of(script, "old", [1.0, 1.0, 99.0], [0.4]),
        row_of(script, "new", [0.5], [0.1]),
        row_of(script, "transformers", [2.0], [0.8]),
        row_of(script, "other", [3.0], []),
    ]
    rows[1].texts = rows[1].texts | {"digits": "four TWO seven"}
    old, new, theirs, other = script.single_table(rows, data, seconds)
    assert (old["speed"], new["speed"], old["of first"], new["of first"]) == pytest.approx((3, 6, 1, 2))
    assert new["by processor"] == pytest.approx(12) and new["of theirs"] == pytest.approx(8)
    assert theirs["of first"] == pytest.approx(0.5) and other["of theirs"] is None and other["decoder"] is None
    assert old["wer"] == 0 < new["wer"] and "-" in new["interval"]
    rows[0].ways, rows[0].best, rows[0].seconds = {"one process": 4.0, "2 processes": 2.0}, "2 processes", 2.0
    text = script.both_tables(rows, rows[:1], data, seconds)
    assert "one process 3.0" in text and "speed of old" in text and "| other " in text


def test_all_cores_keep_the_better_way(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process a core with its share, and one for all; a tool that is not installed is left out."""
    script, _ = scripts
    asked: list[tuple[str, int]] = []

    class Told:
        def __init__(self, row: Any, threads: int) -> None:
            self.row, self.threads = row, threads

        def hear(self, about: object = "") -> dict[str, Any]:
            if about == "loading":
                return {"missing": "no module"} if self.row.name == "gone" else {"about": "here"}
            return {"texts": [f"{name}{self.threads}" for name in self.names]}

        def tell(self, do: str, names: list[str]) -> None:
            self.names = names
            asked.append((self.row.name, len(names)))

        def ask(self, **request: Any) -> dict[str, Any]:
            return {}

        def close(self) -> None:
            pass

    monkeypatch.setattr(script.Row, "start", lambda row, args, cores, threads: Told(row, threads))
    times = iter(range(0, 1000))
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(times))
    rows = [script.Row(name, script.Side("here", ROOT), tool, "") for name, tool in
            (("new", "speechmtp"), ("gone", "x"), ("other", "y"))]  # fmt: skip
    args = type("Args", (), {"cores": [0, 1], "rounds": 2, "ways": "processes"})
    script.all_at_once(args, rows, {"a": 3.0, "b": 2.0, "c": 1.0})
    new, gone, other = rows
    assert set(new.ways) == {"one process", "2 processes"} and new.best == "2 processes" and new.seconds == 1
    assert other.ways == {"2 processes": 1} and gone.missing == "no module" and gone.seconds is None
    assert new.texts == {"a": "a1", "b": "b1", "c": "c1"} and asked.count(("new", 3)) == 2
    assert "gone" not in {name for name, _ in asked}


def served(side: Any, *requests: dict[str, Any], tool: str = "speechmtp") -> list[dict[str, Any]]:
    """Answers of a tool on the examples."""
    first = {"tool": tool, "model": "an4", "strategy": "", "threads": 1, "data": str(EXAMPLES)}
    return list(side.serve(iter([first, *requests])))


def test_this_project_tells_texts_and_times(scripts: Any) -> None:
    _, side = scripts
    names = ["digits", "letters"]
    asked = [{"do": do, "names": names} for do in ("read", "one", "many")]
    loaded, read, single, many = served(side, *asked)
    assert names[0] in loaded["names"] and "strategy" in loaded["about"]
    assert all(1 < seconds < 10 for seconds in read["seconds"])
    assert single["texts"] == many["texts"] == ["FOUR TWO SEVEN NINE", "S M I T H"]
    for answer in (single, many):
        assert 0 < answer["decoder"] < answer["processor"] and answer["wall"] > 0


@pytest.mark.parametrize("tool", ["moonshine", "faster-whisper"])
def test_what_is_not_installed_is_told(scripts: Any, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, side = scripts
    for module in ("moonshine_voice", "faster_whisper"):
        monkeypatch.setitem(sys.modules, module, None)
    [answer] = served(side, tool=tool)
    assert tool.replace("-", "_") in answer["missing"]


def test_an_unknown_tool_is_an_error(scripts: Any) -> None:
    _, side = scripts
    with pytest.raises(ConfigError, match="no tool 'x', expected one of speechmtp"):
        served(side, tool="x")


@pytest.mark.slow
def test_transformers_says_the_same_on_the_same_weights(scripts: Any) -> None:
    _, side = scripts
    texts = []
    for tool in ("transformers", "speechmtp"):
        first = {"tool": tool, "model": "default", "strategy": "", "threads": 1, "data": str(EXAMPLES)}
        answers = side.serve(iter([first, {"do": "one", "names": ["digits"]}]))
        next(answers)
        answer = next(answers)
        texts.append(answer["texts"])
        assert answer["decoder"] > 0
    assert texts[0] == texts[1]


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--cores", "4096"], ["--side", "old"]])
def test_a_wrong_call_is_one_line(scripts: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    script, _ = scripts
    assert script.main(["--data", str(EXAMPLES), "--table", "one", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("peers: error: ") and error.count("\n") == 1
