"""The demo and its examples: a real recording with the default model first, then spelled letters with `an4`."""

import json
import re
from pathlib import Path

import pytest
import soundfile

import speechmtp
from speechmtp.cli.main import main
from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.validation.validate import CheckOptions, validate
from speechmtp.errors import DataError
from speechmtp.text.normalize import get_normalizer

EXAMPLES = Path(speechmtp.__file__).parent / "assets" / "examples"
SPELLED = ["command", "date", "digits", "letters"]


def test_every_example_has_a_name_and_is_small() -> None:
    found = {path.stem: path for path in EXAMPLES.rglob("*.flac")}
    assert sorted(found) == sorted([*SPELLED, "reading"])
    for name, path in found.items():
        assert speechmtp.example(name) == path
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert path.stat().st_size < 200_000
    with pytest.raises(DataError, match=r"example 'none': not there; one of command, date, digits, letters, reading$"):
        speechmtp.example("none")


def test_both_folders_are_data_directories_and_the_recording_stays_out_of_the_comparison() -> None:
    assert list(read_data_dir(EXAMPLES, EXAMPLES)) == SPELLED
    assert list(read_data_dir(EXAMPLES / "speech", EXAMPLES / "speech")) == ["reading"]
    for folder in (EXAMPLES, EXAMPLES / "speech"):
        defects = validate(folder, CheckOptions(root=str(folder), audio="decode"))
        assert {defect.code for defect in defects} == {"E42"}, defects  # as many speakers as utterances, or one


def test_the_real_recording_is_credited() -> None:
    info = json.loads((EXAMPLES / "speech" / "info.json").read_text())
    assert info["licence"] == "CC BY 4.0"
    for words in ("LibriSpeech 446-123501-0000", "Panayotov", "reader 446", "CC BY 4.0"):
        assert words in info["source"]
        assert words.removeprefix("LibriSpeech ") in (EXAMPLES / "README.md").read_text()
    assert 4 < soundfile.info(EXAMPLES / "speech" / "reading.flac").duration < 8


def test_demo_shows_the_recording_first_and_the_spelled_examples_after_and_speaks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["demo", "--strategies", "ar,ctc", "--threads", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    first, rest = printed.split("\nan4 on a synthesiser's voice, spelled letters and numbers:\n")
    said, written, times, credit = first.splitlines()
    reading = read_data_dir(EXAMPLES / "speech", EXAMPLES / "speech")["reading"].text
    assert said == f"reading.flac: said {reading}"
    normalize = get_normalizer("whisper-en")
    assert normalize(written.removeprefix("  default writes: ")) == normalize(str(reading))
    assert re.fullmatch(
        r"  7\.3 s of audio in \d+\.\d\d s \(\d+\.\d\d encoder, \d+\.\d\d decoder\): \d+ tokens in \d+ decoder calls,"
        r" verify:depth=3",
        times,
    )
    assert credit.strip() == json.loads((EXAMPLES / "speech" / "info.json").read_text())["source"]
    assert "reading" not in rest
    assert re.findall(r"^(\w+)\.flac: said", rest, re.M) == SPELLED
    assert "  ar   FOUR TWO SEVEN NINE\n  ctc  FOUR TWO SEVEN NINE\n" in rest
    assert "4 utterances, 8.5 s of audio" in rest
    assert rest.index("4 utterances") < rest.index("\nspeak: ") < rest.index("Next:")
    assert soundfile.info(tmp_path / "speech.wav").duration > 4
    assert (tmp_path / "speech.png").read_bytes().startswith(b"\x89PNG")
    [heard] = re.findall(r"^  read back by default: (.+)$", rest, re.M)
    assert {"voice", "draws", "several", "tokens", "seed"} <= set(normalize(heard).split())


def test_demo_refuses_a_strategy_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--strategies", "previous"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("speechmtp: error: strategy previous: needs a pass before")
