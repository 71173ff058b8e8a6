"""Texts of two sides: where tokens differ first and by what gap, which results are kept, what the exit status says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts import EXAMPLES, ROOT, imported

from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.types import PreviousPass


@pytest.fixture
def scripts() -> Iterator[Any]:
    """The script and its side."""
    with imported("exact", "exact_side") as modules:
        yield modules


def test_the_first_differing_token_is_found(scripts: Any) -> None:
    script, _ = scripts
    assert script.first_difference([1, 2, 3], (1, 2, 3)) is None
    assert script.first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert script.first_difference([1, 2], [1, 2, 3]) == 2 and script.first_difference([], [4]) == 0


def test_lists_of_the_command_line(scripts: Any) -> None:
    script, side = scripts
    assert script.split_list("ar,verify:depth=3,theta=0.5,tree") == ["ar", "verify:depth=3,theta=0.5", "tree"]
    assert script.parse_set("a/b") == ("a/b", 0) and script.parse_set("a/b=100") == ("a/b", 100)
    for wrong in ("a=", "a=x", "a=0"):
        with pytest.raises(script.ConfigError, match="expected DIR or DIR=N"):
            script.parse_set(wrong)
    assert side.spaced(range(10), 4) == [0, 2, 5, 7] and side.spaced("abc", 0) == list("abc") == side.spaced("abc", 9)


class Told:
    """A side with the tokens that it is told."""

    def __init__(self, kept: Any, results: dict[str, Any], gap: float = 0.0) -> None:
        self.kept, self.results, self.gap, self.worker = kept, results, gap, self
        self.asked: list[dict[str, Any]] = []

    def tell(self, **request: Any) -> None:
        self.asked.append(request)

    def hear(self, about: object) -> dict[str, Any]:
        return {"results": self.results}

    def ask(self, **request: Any) -> dict[str, float]:
        self.asked.append(request)
        return {"gap": self.gap}

    def close(self) -> None:
        pass


def one(*tokens: int) -> dict[str, Any]:
    """A result of these tokens."""
    return {"tokens": list(tokens), "text": " ".join(map(str, tokens))}


def test_differences_are_listed_with_their_gaps(scripts: Any, tmp_path: Path) -> None:
    script, _ = scripts
    kept = [script.Kept(tmp_path, script.Side(name, ROOT), "an4") for name in ("ref", "auto")]
    results = {"a": one(1, 2), "b": one(3, 4, 5), "c": one(6)}
    sides = [Told(kept[0], results, 2e-5), Told(kept[1], results | {"b": one(3, 9, 5), "c": one(6, 7)})]
    line, differing = script.compared(sides, ("some/set", 0, "tree", 16))
    assert (line["utterances"], line["tokens"], line["texts"], line["differing"]) == (3, 6, 2, 2)
    assert line["gap"] == 2e-5 and line["set"] == "some/set"
    assert [(each["utterance"], each["token"], each["gap"]) for each in differing] == [("b", 1, 2e-5), ("c", 1, None)]
    assert sides[0].asked[-1] == {
        "do": "gap", "data": "some/set", "number": 0, "name": "b", "prefix": [3], "first": 4, "second": 9,
    }  # fmt: skip
    text = script.table([line], differing)
    assert "0.0000200" in text and "Texts that differ: 2 of 3." in text
    same, none = script.compared([sides[0], Told(kept[1], results)], ("some/set", 0, "ar", 1))
    assert same["texts"] == 0 == same["differing"] and none == []


def test_results_are_kept_for_the_same_package_alone(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, _ = scripts
    cell = ("some/set", 3, "verify:depth=3", 16)
    for package, kernels, there in (
        ("p", "ref", True),
        ("q", "ref", False),
        ("p", "auto", False),
        (None, "ref", False),
    ):
        monkeypatch.setattr(script, "package_of", lambda _: "p")
        script.Kept(tmp_path, script.Side("one", ROOT, "ref"), "an4").write(cell, {"a": one(1)})
        monkeypatch.setattr(script, "package_of", lambda _, package=package: package)
        kept = script.Kept(tmp_path, script.Side("one", ROOT, kernels), "an4")
        assert kept.read(cell) == ({"a": one(1)} if there else None)
        assert kept.read(("other/set", *cell[1:])) is None and kept.read((*cell[:3], 1)) is None


@pytest.mark.parametrize(("gap", "status"), [(2e-5, 0), (2e-3, 1)])
def test_the_status_tells_near_ties_from_differences(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap: float, status: int
) -> None:
    script, _ = scripts
    results = {"ref": {"a": one(1, 2)}, "auto": {"a": one(1, 3)}}
    monkeypatch.setattr(
        script, "Asked",
        lambda side, folder, model: Told(script.Kept(folder, side, model), results[side.name], gap),
    )  # fmt: skip
    words = ["--data", "some/set", "--strategies", "ar", "--rows", "1", "--out", str(tmp_path)]
    assert script.main(words) == status
    assert "Texts that differ: 1 of 1." in (tmp_path / "default.md").read_text()


def test_a_side_decodes_and_knows_gaps(scripts: Any) -> None:
    """The gap of the chosen token to the best of all others is what decoding records."""
    _, side = scripts
    decoder = side.Decoder("an4")
    data = str(EXAMPLES)
    heard = decoder.heard(data, 2)
    assert len(heard) == 2
    [plain] = [decoder.cell(data, 2, "ar", rows) for rows in (2,)]
    assert decoder.cell(data, 2, "verify", 1) == plain == json.loads(json.dumps(plain))
    early = decoder.knowing(data, 2)
    assert decoder.cell(data, 2, "previous", 2) == plain
    name, request = next(iter(heard.items()))
    known = early[name].source(PreviousPass)
    assert known is not None and 0 < len(known.tokens) <= len(plain[name]["tokens"])
    [result] = decoder.recogniser.decode([request], parse_strategy("ar"), recorded=Recorded(gaps=True))
    for at in (0, 3):
        chosen = result.tokens[at]
        others = set(range(decoder.recogniser.runner.trunk.vocab_size)) - {chosen}
        gaps = [decoder.gap(request, result.tokens[:at], chosen, other) for other in sorted(others)[:400]]
        assert min(gaps) == pytest.approx(result.trace.gaps[at], abs=1e-4)


@pytest.mark.parametrize("words", [["--side", "a=."], ["--rows", "0"], ["--data", "x=y"]])
def test_a_wrong_call_is_one_line(
    scripts: Any, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    script, _ = scripts
    assert script.main(["--data", str(EXAMPLES), "--out", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("exact: error: ") and error.count("\n") == 1
