"""Silence has an empty text and the flag `empty` with every kind of model, in every way to decode it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_audio_lm
import tiny

import speechmtp
from speechmtp.audio.io import write_audio
from speechmtp.cli.main import main
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.evaluation.evaluation_sets import decode_by_peer, open_evaluation_set
from speechmtp.evaluation.head_report import report_heads
from speechmtp.evaluation.settings import EvaluationSettings
from speechmtp.models.bases.whisper import Whisper

RATE = 16000
FOLDERS: dict[str, Callable[[Path], object]] = {
    "moonshine": tiny.write_seq2seq,
    "whisper": lambda folder: tiny.write_seq2seq(folder, "whisper"),
    "qwen2_audio": small_audio_lm.write_audio_lm,
}
QUIET = (2e-5 * np.random.default_rng(0).normal(size=RATE) + 0.01).astype(np.float32)  # a muted microphone


def speech(seconds: float = 1.0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(1).normal(size=round(seconds * RATE))).astype(np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Models by kind: tiny folders, and an embedded one."""
    found = {"speech_lm": "an4"}
    for kind, write in FOLDERS.items():
        path = tmp_path_factory.mktemp(kind) / "model"
        write(path)
        found[kind] = str(path)
    return found


@pytest.mark.parametrize("kind", ["speech_lm", *FOLDERS])
def test_no_kind_of_model_hears_silence(kind: str, folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser = speechmtp.load(folders[kind])
    sources = [np.zeros(RATE, np.float32), speech(level=2e-4), QUIET, np.zeros(5000, np.int16)]
    heard = []
    listen = recogniser.bundle.model.listen

    def counted(*given: Any) -> Any:
        heard.append(given)
        return listen(*given)

    monkeypatch.setattr(recogniser.bundle.model, "listen", counted)
    found = list(recogniser.transcribe_many(sources, RATE, batch=4, logprobs=True))
    assert len(heard) == 1, "what can be heard, however quiet"
    for place in (0, 2, 3):
        assert (found[place].text, found[place].tokens, found[place].flags) == ("", (), ("empty",))
        assert found[place].trace.finished and not found[place].trace.calls
        [segment] = found[place].segments
        assert segment.end == len(sources[place]) / RATE and segment.mean_logprob is None
    assert found[1] == recogniser.transcribe(sources[1], RATE, logprobs=True)
    with pytest.raises(ConfigError, match="language='xx'"):
        recogniser.transcribe(sources[0], RATE, language="xx")


def test_silent_parts_of_a_long_recording(folders: dict[str, str]) -> None:
    recogniser = speechmtp.load(folders["moonshine"])
    audio = np.concatenate([speech(16), np.zeros(34 * RATE, np.float32), speech(10)])
    found = recogniser.transcribe(audio, RATE)
    silent = [segment.flags == ("empty",) for segment in found.segments]
    assert silent[0] is silent[-1] is False and any(silent)
    assert "empty" not in found.flags and found.text


def test_the_language_of_silence() -> None:
    model = tiny.tiny_whisper()
    assert isinstance(model, Whisper) and model.silence("english").language == "en"
    with pytest.raises(ConfigError, match="language='de': an English-only Whisper"):
        model.silence("de")


def test_an_engine_is_done_with_silence_at_once(folders: dict[str, str]) -> None:
    recogniser = speechmtp.load("an4")
    silent, spoken = (recogniser.listen(audio) for audio in (QUIET, speech()))
    engine = recogniser.runner.engine(slots=3)
    slots = [engine.join(silent, parse_strategy("ctc")), engine.join(spoken, parse_strategy("verify"))]
    events = {event.slot: event for event in engine.step()}
    assert events[slots[0]].done and not events[slots[0]].tokens
    late = engine.join(silent, parse_strategy("ar"))
    while engine.busy:
        engine.step()
    for slot in (slots[0], late):
        tokens, trace = engine.leave(slot)
        assert (tokens, trace.flags, trace.finished, trace.calls) == ([], ("empty",), True, 0)
    assert engine.leave(slots[1])[0] == list(recogniser.decode([spoken], parse_strategy("ar"))[0].tokens)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, and two silent utterances, of which one has a transcript."""
    folder = tmp_path_factory.mktemp("data")
    for name, audio in (("b", np.zeros(RATE, np.float32)), ("c", QUIET)):
        write_audio(folder / f"{name}.wav", audio, RATE)
    digits = speechmtp.example("digits")
    (folder / "wav.scp").write_text(f"a {digits}\nb {folder / 'b.wav'}\nc {folder / 'c.wav'}\n")
    (folder / "text").write_text("a FOUR TWO SEVEN NINE\nb FOUR\nc\n")
    (folder / "utt2spk").write_text("a a\nb b\nc c\n")
    return folder


def test_data_directories_keep_silent_utterances(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decode", str(data), "--model", "an4", "--out", str(tmp_path / "out")]) == 0
    assert "warning: 2 of 3 utterances have no text: b, c" in capsys.readouterr().err
    utterances = json.loads((tmp_path / "out" / "trace.json").read_text())["utterances"]
    assert [utterances[name]["trace"]["flags"] for name in "abc"] == [[], ["empty"], ["empty"]]
    settings = EvaluationSettings(str(data), "an4", device="cpu")
    evaluation_set = open_evaluation_set(settings)
    assert evaluation_set.audio_seconds == pytest.approx(3.7, abs=0.1)
    assert evaluation_set.batches(3) == [["b", "c", "a"]]
    found = [evaluation_set.decode(["a", "b", "c"], parse_strategy(name)) for name in ("ar", "verify", "ctc-only")]
    found.append([decode_by_peer(evaluation_set, name, "greedy") for name in "abc"])
    assert [[one.text for one in row] for row in found] == [["FOUR TWO SEVEN NINE", "", ""]] * 4
    for reference in ("ar", "text"):
        report = report_heads(settings, reference, tmp_path / reference, batch_size=3)
        assert report.summary["utterances"] == 3
