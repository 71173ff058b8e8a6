"""Measures of voices: rows, word errors, melody, the table beside the teacher, and the choice of a temperature."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechmtp.audio.io import write_audio
from speechmtp.config import read_yaml
from speechmtp.errors import ConfigError, DataError

TOOLS = Path(__file__).parents[2] / "tools" / "voice_eval"
SENTENCES = Path(__file__).parents[2] / "egs" / "kokoro" / "tts1" / "conf" / "sentences.txt"


@pytest.fixture
def tools() -> Iterator[Any]:
    """Imports a script of the folder by name; what was imported is forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield import_module
        for path in TOOLS.glob("*.py"):
            sys.modules.pop(path.stem, None)


def tone(hz: float, seconds: float = 0.6) -> np.ndarray:
    """A buzz with many harmonics."""
    at = np.arange(int(24000 * seconds)) / 24000
    return (0.1 * sum(np.sin(2 * np.pi * n * hz * at) / n for n in range(1, 12))).astype(np.float32)


def measured(
    tools: Any, folder: Path, heard: dict[str, str], opinions: list[float] | None = None, sd: float = 3.0
) -> Path:
    """A row's measures: what one recogniser heard, opinions, and a melody."""
    texts = {"a": "the cat sat", "b": "on two mats"}
    read_back = tools("read_back")
    content = {"normalizer": {"id": "whisper-en"}, "sentences": 2, "moonshine": read_back.scored(texts, heard)}
    rows = tools("rows")
    rows.write_json(folder / "read_back.json", content)
    rows.write_json(folder / "pitch.json", {"rows": {"x": {"median_hz": 200.0, "sd_st": sd, "range_st": 9.0}}})
    if opinions:
        both = dict(zip(texts, opinions))
        mean = float(np.mean(opinions))
        content = {"files": 2, "mean": {"distillmos": mean, "dnsmos": mean}, "distillmos": both, "dnsmos": both}
        rows.write_json(folder / "mos.json", content)
    return folder


RIGHT = {"a": "The cat sat.", "b": "on 2 mats"}
WRONG = {"a": "The cat spat.", "b": "on 2 mats"}


def test_sentences_are_a_hundred_and_new() -> None:
    lines = [line.split(" ", 1) for line in SENTENCES.read_text().splitlines()]
    assert len({name for name, _ in lines}) == len({text for _, text in lines}) == 100
    assert all(3 <= len(text.split()) <= 30 for _, text in lines)


def test_a_row_names_what_is_missing(tools: Any, tmp_path: Path) -> None:
    rows = tools("rows")
    with pytest.raises(DataError, match="one a sentence"):
        rows.wav_files(tmp_path)
    write_audio(tmp_path / "a.wav", tone(200), 24000)
    assert list(rows.wav_files(tmp_path)) == ["a"]
    with pytest.raises(DataError, match=r"no b\.wav"):
        rows.wav_files(tmp_path, ["a", "b"])
    assert len(rows.samples_of(tmp_path / "a.wav")) == 9600  # at 16 kHz


def test_numbers_are_read_alike_and_errors_counted(tools: Any) -> None:
    found = tools("read_back").scored({"a": "the cat sat", "b": "on two mats"}, WRONG)
    assert found["errors"] == {"a": 1, "b": 0} and found["wer"] == pytest.approx(100 / 6)


@pytest.mark.slow
def test_the_melody_of_a_tone(tools: Any, tmp_path: Path) -> None:
    pytest.importorskip("librosa")
    pitch = tools("pitch")
    write_audio(tmp_path / "low.wav", tone(150), 24000)
    found = pitch.figures({"a": pitch.f0_of(tools("rows").samples_of(tmp_path / "low.wav", 12000))})
    assert found["median_hz"] == pytest.approx(150, rel=0.02) and found["sd_st"] < 0.3


def test_rows_half_an_octave_apart(tools: Any) -> None:
    pitch, low = tools("pitch"), np.array([np.nan, 150.0, 150.0, 150.0, np.nan])
    assert pitch.figures({"a": low})["median_hz"] == pytest.approx(150)
    assert pitch.figures({"a": low})["voiced"] == pytest.approx(0.6)
    found = pitch.over_rows([{"a": low}, {"a": low * 2**0.5}])
    assert found == {"sentence_st": pytest.approx(3), "frame_st": pytest.approx(3)}
    longer = {"a": np.append(low, 150.0)}  # of another length: no frames to compare
    assert pitch.over_rows([{"a": low}, longer]) == {"sentence_st": pytest.approx(0), "frame_st": None}


def test_silence_has_no_melody(tools: Any) -> None:
    pitch = tools("pitch")
    assert pitch.figures({"a": np.full(10, np.nan)})["median_hz"] is None


def test_the_table_is_beside_the_teacher(tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = measured(tools, tmp_path / "teacher", RIGHT, [4.0, 4.2])
    voice = measured(tools, tmp_path / "voice", WRONG, [3.9, 4.3])
    words = ["--teacher", str(teacher), "--row", f"voice:0={voice}", "--row", f"voice:1={teacher}"]
    assert tools("table").main(words) == 0
    text = capsys.readouterr().out
    assert "Whisper" not in text  # nobody measured it
    assert "+16.67" in text and "4.10 (4.00-4.20)" in text and "0.00 (-0.10 to +0.10)" in text
    assert "voice, mean of 2 seeds (lowest to highest): Moonshine 8.33 (0.00 to 16.67)" in text
    assert tools("table").main(["--teacher", str(tmp_path / "none")]) == 2
    assert "measure that row first" in capsys.readouterr().err


def test_rows_of_other_sentences_are_refused(tools: Any, tmp_path: Path) -> None:
    table = tools("table")
    rows = [table.row_of(name, measured(tools, tmp_path / name, RIGHT)) for name in "ab"]
    rows[1].read_back["moonshine"]["words"]["a"] = 9
    with pytest.raises(ConfigError, match="other sentences than a"):
        table.table(rows[0], rows[1:])


def test_the_best_opinion_wins_among_those_that_can_be_understood(tools: Any, tmp_path: Path) -> None:
    choose = tools("choose")
    wrong = measured(tools, tmp_path / "wrong", WRONG, [5.0, 5.0])
    dull = measured(tools, tmp_path / "dull", RIGHT, [3.0, 3.0])
    good = measured(tools, tmp_path / "good", RIGHT, [4.0, 4.0])
    tries = [choose.parse_try(f"{n},20={folder}") for n, folder in enumerate((wrong, dull, good))]
    assert choose.best_of(tries, 3.0).temperature == 2
    lively = [measured(tools, tmp_path / f"sd{sd}", RIGHT, sd=sd) for sd in (1.0, 2.5, 5.0)]
    tries = [choose.parse_try(f"0.7,{n}={folder}") for n, folder in enumerate(lively)]
    assert choose.best_of(tries, 3.0).top_k == 1
    with pytest.raises(ConfigError, match="TEMPERATURE,TOP_K=FOLDER"):
        choose.parse_try("warm=x")


def test_the_chosen_voice_has_sampling_then_heads(tools: Any, tmp_path: Path) -> None:
    model, heads = tmp_path / "model", tmp_path / "heads"
    for folder, text in ((model, "format_version: 1\n"), (heads, "heads: {kind: chain}\n")):
        folder.mkdir()
        (folder / "config.yaml").write_text(text)
    for name in ("heads.safetensors", "card.md"):
        (heads / name).write_text("weights")
    row = measured(tools, tmp_path / "row", RIGHT)
    words = ["--try", f"0.8,20={row}", "--recordings", str(row), "--model", str(model)]
    tuned, out = tmp_path / "tuned", tmp_path / "out"
    assert tools("choose").main([*words, "--out", str(tuned), "--table", str(tmp_path / "tune.md")]) == 0
    assert read_yaml(tuned / "config.yaml")["sampling"] == {"temperature": "0.8", "top_k": "20"}
    assert "F0 sd 3.00" in (tmp_path / "tune.md").read_text()
    words = ["--model", str(tuned), "--heads", str(heads), "--out", str(out), "--strategy"]
    assert tools("with_heads").main([*words, "verify:depth=2"]) == 0
    config = read_yaml(out / "config.yaml")
    assert config["strategy"] == "verify:depth=2" and config["sampling"]["top_k"] == "20"
    assert (out / "heads/chain/heads.safetensors").exists()
    assert tools("with_heads").main([*words, "nothing"]) == 2


def test_text_outside_the_markers_is_kept(tools: Any, tmp_path: Path) -> None:
    row = measured(tools, tmp_path / "row", RIGHT)
    (tmp_path / "tune.md").write_text("choice\n")
    (tmp_path / "melody.json").write_text(json.dumps({"over_rows": {"sentence_st": 0.4, "frame_st": 0.9}}))
    page = tmp_path / "RESULTS.md"
    page.write_text("# Results\n\nMy words.\n")
    words = ["--teacher", str(row), "--tune", str(tmp_path / "tune.md"), "--melody", str(tmp_path / "melody.json"),
             "--run", "./run.sh", "--name", "train", "--out", str(page)]  # fmt: skip
    for _ in range(2):
        assert tools("results").main(words) == 0
    text = page.read_text()
    assert text.count("<!-- begin train -->") == 1 and "My words." in text and "mean 0.40 st" in text
