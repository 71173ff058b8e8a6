"""The comparison of two checkouts: what differs is found, times are compared, both run their own code."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "benchmarks"
EXAMPLES = ROOT / "speechmtp" / "assets" / "examples"


@pytest.fixture
def script() -> Iterator[Any]:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import before_after

        yield before_after
        for name in ("before_after", "checkout"):
            sys.modules.pop(name, None)


def result(text: str = "ONE", seconds: float = 1.0, **counts: Any) -> dict[str, Any]:
    """What a worker answers."""
    trace = {"calls": 2, "draft_calls": 0, "fed": 9, "emitted": 4, "num_accepted_tokens": 3} | counts
    return {"text": text, "tokens": [len(text)], "seconds": seconds, "trace": trace}


def row_of(script: Any, pairs: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> Any:
    """A row with results of both sides by utterance."""
    row = script.Row()
    for name, pair in pairs.items():
        for side, one in zip(script.SIDES, pair):
            row.results[side][name] = one
            row.seconds[side][name].append(one["seconds"])
    return row


def test_what_differs_is_named_by_utterance(script: Any) -> None:
    row = row_of(script, {
        "a": (result(), result()),
        "b": (result(), result("TWO!")),
        "c": (result(fed=7), result(fed=8, calls=3)),
    })  # fmt: skip
    assert row.differing() == {"text": ["b"], "tokens": ["b"], "fed": ["c"], "calls": ["c"]}
    figures = row.figures(0)
    assert figures["fed"] == {"old": 25, "new": 26} and figures["calls"] == {"old": 6, "new": 7}
    line = script.table({"verify": figures}).splitlines()[2]
    assert "text of 1, tokens of 1, calls of 1, fed of 1" in line and "25 -> 26" in line and "| 9 " in line


def test_times_are_compared_as_ratios(script: Any) -> None:
    pairs = {str(n): (result(seconds=1.0 + n), result(seconds=0.5 * (1.0 + n))) for n in range(9)}
    pairs["slow"] = (result(seconds=10.0), result(seconds=20.0))
    figures = row_of(script, pairs).figures(3)
    assert figures["ratio"] == pytest.approx((22.5 + 20) / 55) and figures["median_ratio"] == 0.5
    assert figures["low"] == 0.5 and figures["ratio"] < figures["high"] < 2
    assert figures == row_of(script, pairs).figures(3), "the seed decides"
    assert script.interval([1.0] * 5, [1.5] * 5, 0) == (1.5, 1.5)
    assert script.interval([], [], 0) == (None, None)


class Here:
    """A worker in this process."""

    def __init__(self, serve: Any) -> None:
        self.asked: dict[str, Any] = {}
        self.answers = serve(iter(lambda: self.asked, None))
        self.listened: list[str] = []

    def ask(self, **request: Any) -> Any:
        self.asked = json.loads(json.dumps(request))
        if request["do"] == "listen":
            self.listened.append(request["name"])
        return json.loads(json.dumps(next(self.answers)))


def test_sides_decode_every_utterance_by_every_row(script: Any) -> None:
    import checkout

    workers = {side: Here(checkout.serve) for side in script.SIDES}
    load = {"do": "load", "model": "an4", "heads": [], "ctc": "", "draft_model": "", "root": "", "limit": 2,
            "strategies": "ctc,oracle:depth=3", "data": str(EXAMPLES)}  # fmt: skip
    loaded = [worker.ask(**load) for worker in workers.values()]
    assert loaded[0] == loaded[1] and loaded[0]["package"] == str(ROOT)
    names, rows = loaded[0]["names"], loaded[0]["rows"]
    assert len(names) == 2 and rows == ["ar", "ctc", "oracle:depth=3"]
    found = script.measure(workers, names, rows, 2)
    for worker in workers.values():
        assert worker.listened == [names[0], *names, *names]
    figures = {row: each.figures(0) for row, each in found.items()}
    for row, each in found.items():
        assert figures[row]["differing"] == {} and figures[row]["utterances"] == 2
        assert {len(taken) for side in script.SIDES for taken in each.seconds[side].values()} == {2}
    assert figures["ar"]["emitted"] == figures["oracle:depth=3"]["emitted"] == figures["ctc"]["emitted"]
    assert figures["ar"]["calls"]["new"] > 2 * figures["oracle:depth=3"]["calls"]["new"], "it knows what ar says"


@pytest.mark.slow
def test_a_checkout_against_itself(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPTS / "before_after.py"), "--old", str(ROOT), "--data", str(EXAMPLES)]
    words += ["--model", "an4", "--strategies", "ctc", "--limit", "2", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "before_after.json").read_text())
    assert list(found["rows"]) == ["ar", "ctc"] and found["utterances"] == 2
    for row in found["rows"].values():
        assert row["differing"] == {} and row["ratio"] > 0 and row["low"] <= row["high"]
    assert found["old"] == found["new"] and "| ar " in done.stdout


def test_what_is_no_checkout_is_said_in_one_line(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPTS / "before_after.py"), "--old", str(tmp_path), "--data", str(EXAMPLES)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"before_after: error: {tmp_path}: not a checkout, it has no speechmtp/")
