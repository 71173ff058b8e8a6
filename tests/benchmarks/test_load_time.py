"""The cost of beginning: medians and their ratio, checkouts that are none, a difference of texts."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def script() -> Iterator[Any]:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import load_time

        yield load_time
        sys.modules.pop("load_time", None)


def test_figures_are_medians_and_their_ratio(script: Any) -> None:
    """One slow round moves nothing; the table has a line for each measurement."""
    seconds = {
        "load": {"old": [2.0, 2.2, 90.0], "new": [0.5, 1.1, 1.2]},
        "transcribe": {"old": [4.0, 6.0], "new": [3.0, 4.0]},
    }
    load, transcribe = script.figures(seconds)
    least = {"least_old": 2.0, "least_new": 0.5}
    assert load == {"name": "load", "old": 2.2, "new": 1.1, "ratio": pytest.approx(0.5), **least}
    assert transcribe["old"] == 5.0 and transcribe["new"] == 3.5 and transcribe["ratio"] == pytest.approx(0.7)
    lines = script.table([load, transcribe]).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["load", "2.00", "0.50", "2.20", "1.10", "0.50"]
    assert len(lines) == 4


def test_nothing_measured_has_no_ratio(script: Any) -> None:
    """A time of zero is no divisor."""
    assert script.figures({"load": {"old": [0.0], "new": [1.0]}})[0]["ratio"] is None


def test_sides_take_turns_and_texts_are_compared(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which side is first alternates; texts that differ are an exit status of 1."""
    for name in ("one", "two"):
        (tmp_path / name / "speechmtp").mkdir(parents=True)
        (tmp_path / name / "speechmtp" / "__init__.py").touch()
    order: list[tuple[str, str]] = []

    def measure(checkout: Path, what: str, model: str, audio: str, modules: Any) -> tuple[float, str]:
        order.append((checkout.name, what))
        return 1.0, texts[checkout.name] if what == script.TRANSCRIBE else ""

    monkeypatch.setattr(script, "run", lambda checkout, arguments: ("", 0.0))
    monkeypatch.setattr(script, "measure", measure)
    asked = ["--old", str(tmp_path / "one"), "--new", str(tmp_path / "two"), "--audio", "a.wav", "--rounds", "2"]
    texts = {"one": "A", "two": "A"}
    assert script.main(asked) == 0 and "the same" in capsys.readouterr().out
    assert [name for name, what in order if what == script.LOAD] == ["two", "one", "one", "two"]
    texts = {"one": "A", "two": "B"}
    assert script.main(asked) == 1 and "they differ" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--old", "nowhere"], ["--old", str(ROOT), "--rounds", "0"]])
def test_a_wrong_call_is_one_line(script: Any, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without the package, no round at all."""
    assert script.main(options) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_process_that_fails_is_one_line(script: Any) -> None:
    """Its last line is told."""
    with pytest.raises(script.ConfigError, match="ended with 3: no more"):
        script.run(ROOT, ["-c", "import sys; print('no more', file=sys.stderr); sys.exit(3)"])
    output, seconds = script.run(ROOT, ["-c", "print(sum(range(10**6)))"])
    assert output.strip() == "499999500000" and seconds > 0
