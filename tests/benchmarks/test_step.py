"""The table of a decoding call's parts: least times and ratios, sides in turns, scenes that stay as they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts import EXAMPLES, ROOT, imported


@pytest.fixture
def scripts() -> Iterator[Any]:
    """The script and its side."""
    with imported("step", "step_side") as modules:
        yield modules


def test_least_times_are_compared(scripts: Any) -> None:
    script, _ = scripts
    key, loop, call = ("layers", 16, 4), ("loop", 1, 0), ("call", 1, 0)
    found = {
        "old": {key: [0.008, 0.004, 0.012], call: [0.010], loop: [0.002, 0.003]},
        "new": {key: [0.001, 0.002, 0.9], call: [0.004], loop: [0.001]},
        "idle": {key: [0.0], call: [1.0], loop: [0.5]},
    }
    lines = script.figures(found)
    first = lines[0]
    assert (first["what"], first["rows"], first["width"]) == ("layers", 16, 4)
    assert (first["old least"], first["old median"], first["new median"]) == pytest.approx((4, 8, 2))
    assert first["new ratio"] == pytest.approx(4) and first["idle ratio"] is None
    assert lines[1]["width"] is None
    text = script.table(lines, list(found))
    assert "old/new" in text and len(text.splitlines()) == 5
    assert "call, old, 1 row(s): 20 %" in script.shares(found) and "call, new, 1 row(s): 25 %" in script.shares(found)


class Told:
    """A worker that takes as long as it is told."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order, self.calls = name, order, 0

    def ask(self, part: str, rows: int, width: int, repeats: int) -> dict[str, list[float]]:
        self.order.append(self.name)
        self.calls += 1
        return {part: [float(self.calls)] * repeats}


def test_sides_take_turns_and_the_first_round_warms_up(scripts: Any) -> None:
    script, _ = scripts
    order: list[str] = []
    workers = {name: Told(name, order) for name in ("old", "new")}
    asked = script.cells([1], [1, 2])
    assert asked == [("hearing", 0, 0), ("step", 1, 1), ("step", 1, 2), ("heads", 1, 0), ("loop", 1, 0)]
    found = script.measure(workers, asked, 2)
    firsts = order[::2]
    assert firsts.count("old") == pytest.approx(firsts.count("new"), abs=1) and len(order) == 2 * 3 * 5
    assert min(found["old"]["step", 1, 1]) > len(asked), "what the first round took is left out"
    assert len(found["new"]["step", 1, 2]) == 2 * script.REPEATS[1]


def test_parts_are_timed_in_a_scene_that_stays_as_it_is(scripts: Any) -> None:
    _, side = scripts
    bench = side.Bench(
        {"model": "an4", "data": str(EXAMPLES), "root": "", "rows": [1, 2], "strategy": "verify:depth=3"}
    )
    assert {rows: len(scenes) for rows, scenes in bench.scenes.items()} == {1: 4, 2: 1}
    [scene] = bench.scenes[2]
    before = list(scene.engine._cache.known)
    for width in (1, 4):
        found = bench.measure("step", 2, width, 3)
        assert list(found) == ["layers", "unembedding", "layers and unembedding", "layers and tokens"]
        assert all(len(seconds) == 3 and min(seconds) > 0 for seconds in found.values())
        assert found["layers and unembedding"][0] == pytest.approx(found["layers"][0] + found["unembedding"][0])
    assert len(bench.measure("heads", 2, 0, 2)["draft"]) == 2
    assert scene.engine._cache.known == before
    while scene.engine.busy:
        scene.engine.step()
    for slot, known in scene.known.items():
        assert scene.engine.leave(slot)[0] == list(known), "what was measured changed the output"


def test_parts_of_a_call_add_up(scripts: Any) -> None:
    _, side = scripts
    bench = side.Bench(
        {"model": "an4", "data": str(EXAMPLES), "root": "", "rows": [1, 2], "strategy": "verify:depth=3"}
    )
    hearing = bench.measure("hearing", 0, 0, 1)
    assert 0 < hearing["encoder"][0] < 1 and hearing["CTC speller"][0] >= 0
    for rows in (1, 2):
        (call,), (loop,), (advance,), (drafting,), (trunk,) = bench.measure("loop", rows, 0, 1).values()
        assert call == pytest.approx(loop + advance + drafting + trunk) and min(loop, advance, drafting, trunk) > 0


def test_too_few_recordings_are_an_error(scripts: Any) -> None:
    script, side = scripts
    asked = {"model": "an4", "data": str(EXAMPLES), "root": "", "rows": [5], "strategy": "verify:depth=3"}
    with pytest.raises(script.ConfigError, match="4 recordings, expected 5"):
        side.Bench(asked)


@pytest.mark.parametrize(
    "words", [["--side", "old"], ["--side", "old=nowhere"], ["--rounds", "0"], ["--widths", "0,1"], ["--rows", "0"]]
)
def test_a_wrong_call_is_one_line(scripts: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    script, _ = scripts
    assert script.main([*words, "--data", str(EXAMPLES)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("step: error: ") and error.count("\n") == 1


def test_an_error_of_a_side_is_one_line(scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, _ = scripts
    words = ["--side", f"one={ROOT}", "--data", str(tmp_path / "none"), "--model", "an4", "--starts", "0"]
    assert script.main(words) == 2
    error = capsys.readouterr().err
    assert "none: no such folder" in error and error.count("\n") == 1
