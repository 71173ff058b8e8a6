"""`latency`: a recording of the package offline and live, its files, the choice of a stream, and errors of a line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_lm
import yaml

import speechmtp
from speechmtp.cli.main import main
from speechmtp.config import load_config
from speechmtp.streaming.config import StreamConfig

SPEECH = Path(speechmtp.__file__).parent / "assets" / "examples" / "speech"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What the command wrote, and its rows."""
    folder = tmp_path_factory.mktemp("latency")
    (folder / "grid.yaml").write_text("passes: [1, 2]\n")
    (folder / "base.yaml").write_text("step: 1.0\nsure: 0.0\nactivity: {min_silence_ms: 400, speech_pad_ms: 300}\n")
    command = ["latency", str(SPEECH), "--conf", str(folder / "base.yaml"), "--grid", str(folder / "grid.yaml"),
               "--choose", str(folder / "live.yaml"), "--most-mean", "3", "--most-p90", "3", "--threads", "1",
               "--device", "cpu", "--silence", "0.8", "--out", str(folder / "out")]  # fmt: skip
    assert main(command) == 0
    return folder, json.loads((folder / "out" / "latency.json").read_text())["rows"]


def test_every_promised_file_and_figure(measured: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = measured
    out, labels = folder / "out", ["offline", "step 1 s, passes=1", "step 1 s, passes=2"]
    assert [row["label"] for row in rows] == labels
    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "latency.md").read_text()
    assert all(label in page for label in labels) and "ms a call on whole utterances" in page and "after 400 ms" in page
    facts = json.loads((out / "latency.json").read_text())["facts"]
    assert facts["ar_ms_per_call"] == rows[0]["decoder_ms_per_call"] > 0 and facts["machine"]
    assert (facts["piece_ms"], facts["silence"], facts["aligned_by"]) == (20, 0.8, "reference")
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert settings["streams"][labels[2]]["activity"]["min_silence_ms"] == 400 and settings["feed"]["piece_ms"] == 20
    assert (out / "text" / "step_1_s__passes=1" / "text").exists()
    for name in ("offline", "step_1_s__passes=2"):
        assert "strange and weird landscape" in (out / "text" / name / "text").read_text()


def test_delays_calls_and_times_are_those_of_the_recording(measured: tuple[Path, list[dict[str, Any]]]) -> None:
    offline, once, twice = measured[1]
    assert offline["wer"] == twice["wer"] == 0.0 and offline["passes"] == 1 and offline["words"] == 17
    assert once["wer"] > 0 and once["coverage"] < 1, "words on which no second pass agreed"
    assert twice["coverage"] == 1.0 and len(twice["delays"]) == 17
    assert 0.3 < twice["final_mean"] < 1.0 and twice["finals"] >= 1, "400 ms of silence behind the last word"
    assert -0.3 < twice["shown_mean"] < twice["delay_mean"] and twice["first_text_mean"] > 0
    assert once["delay_mean"] < twice["delay_mean"], "a pass later"
    assert once["flicker"] < twice["flicker"], "without a second pass the tail is punctuation alone"
    for row in (once, twice):
        assert row["delay_median"] <= row["delay_p90"] <= row["delay_p99"]
        shares = [row[f"{name}_share"] for name in ("encoder", "decoder", "words", "vad")]
        assert all(share > 0 for share in shares) and sum(shares) < 1.2
        assert 5 <= row["passes"] <= 10 and row["calls_per_pass"] == row["calls"] / row["passes"]
        assert row["rtf"] == row["seconds"] / row["fed_seconds"]
        assert row["fed_seconds"] == pytest.approx(offline["fed_seconds"] + 0.8)


def test_the_chosen_stream_can_be_loaded(measured: tuple[Path, list[dict[str, Any]]]) -> None:
    chosen = load_config(StreamConfig, measured[0] / "live.yaml")
    assert (chosen.step, chosen.passes, chosen.activity.min_silence_ms) == (1.0, 2, 400), "with fewer errors"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "0.5,x"], "--step 0.5,x: expected seconds, such as 0.5 or 0.5,1.0"),
        (["--step", "0"], "--step: step=0.0, expected a number above 0"),
        (["--step", "0.5,0.5"], "--step: step 0.5 s: given twice, expected once"),
        (["--piece-ms", "0"], "--piece-ms 0: expected 1 to 60000"),
        (["--silence", "-1"], "--silence -1.0: expected a number from 0 to 60"),
        (["--most-p90", "0"], "--most-p90 0: expected a number of seconds above 0"),
        (["--conf", "none.yaml"], "none.yaml: No such file or directory"),
        (["--device", "cpux"], "--device cpux: not available here"),
    ],
)
def test_a_wrong_option_is_one_line(failing: Callable[[list[str]], str], words: list[str], message: str) -> None:
    error = failing(["latency", str(SPEECH), *words, "--out", "never"])
    assert error.startswith(f"speechmtp: error: {message}") and not Path("never").exists()


def test_wrong_files_data_and_models_are_one_line(failing: Callable[[list[str]], str], tmp_path: Path) -> None:
    conf, out = tmp_path / "conf.yaml", ["--out", str(tmp_path / "out")]
    conf.write_text("stap: 0.5\n")
    error = failing(["latency", str(SPEECH), "--conf", str(conf), *out])
    assert f"{conf}: stap: no such key in StreamConfig; did you mean 'step'?" in error
    conf.write_text("step: [0.5]\n")
    assert "give them once" in failing(["latency", str(SPEECH), "--grid", str(conf), "--step", "1", *out])
    conf.write_text("strategy: verify:deep=3\n")
    assert "deep" in failing(["latency", str(SPEECH), "--conf", str(conf), *out])
    assert "nowhere" in failing(["latency", str(tmp_path / "nowhere"), *out])
    small_lm.write_lm(tmp_path / "lm")
    assert "a text LM; give a speech model" in failing(["latency", str(SPEECH), "--model", str(tmp_path / "lm"), *out])
    assert not (tmp_path / "out").exists()


def test_the_results_page_has_the_tables(measured: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    shutil.copytree(measured[0] / "out", tmp_path / "exp" / "latency" / "reading")
    (tmp_path / "exp" / "tables").mkdir()
    (tmp_path / "exp" / "tables" / "noise.md").write_text("| words a minute |\n")
    assert main(["results", str(tmp_path / "exp"), "--out", str(tmp_path / "RESULTS.md")]) == 0
    page = (tmp_path / "RESULTS.md").read_text()
    assert (measured[0] / "out" / "latency.md").read_text().strip() in page
    assert page.index("### reading") < page.index("### noise\n\n| words a minute |")
