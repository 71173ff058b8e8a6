"""`speechmtp score` from its arguments to its files and exit codes."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from speechmtp.cli import score as verb
from speechmtp.errors import SpeechMTPError

REFS = "s1-a one two three\ns1-b four five\ns2-a six\n"


def command(*words: str | Path) -> int:
    """The exit code, a user's error being 2 as the command line has it."""
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    try:
        return verb.run(parser.parse_args([str(word) for word in words]))
    except SpeechMTPError as error:
        print(f"speechmtp: error: {error}", file=sys.stderr)
        return 2


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "text").write_text(REFS)
    return folder


def hypotheses(folder: Path, content: str, name: str = "hyp") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def test_line_and_files(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "utt2spk").write_text("s1-a s1\ns1-b s1\ns2-a s2\n")
    hyp = hypotheses(tmp_path, "s2-a six\ns1-b FOUR\ns1-a one too three four\n")
    out = tmp_path / "out"
    assert command(data, hyp, "--out", out) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("%WER 50.00 [ 3 / 6, 1 ins, 1 del, 1 sub ] 95 % interval ")
    assert printed[1:3] == ["%SER 66.67 [ 2 / 3 ]", "Scored 3 sentences, 0 not present in hyp."]
    assert (out / "wer").read_text().splitlines()[0] == "%WER 50.00 [ 3 / 6, 1 ins, 1 del, 1 sub ]"
    assert {path.name for path in out.iterdir()} == {"wer", "per_utt", "per_spk", "ops", "summary.json"}
    summary = json.loads((out / "summary.json").read_text())
    assert [summary[key] for key in ("wer", "words", "ins", "del", "sub", "missing", "extra", "empty")] == [
        50.0, 6, 1, 1, 1, 0, 0, 0,
    ]  # fmt: skip
    assert summary["wer_low"] <= 50 <= summary["wer_high"]
    assert summary["cer"] == pytest.approx(100 * 9 / 22)
    assert summary["raw_wer"] == pytest.approx(100 * 4 / 6)
    assert summary["normalizer"]["id"] == "kaldi-basic"
    assert summary["interval"]["unit"] == "utterance"
    assert summary["versions"]["jiwer"]


def test_shuffled_hypotheses_score_alike_and_files_repeat(data: Path, tmp_path: Path) -> None:
    lines = ["s1-a one two\n", "s1-b four five\n", "s2-a six\n"]
    hyp = hypotheses(tmp_path, "".join(lines))
    other = hypotheses(tmp_path, "".join(reversed(lines)), "other")
    command(data, hyp, "--out", tmp_path / "x")
    command(data, other, "--out", tmp_path / "y")
    for name in ("wer", "per_utt", "ops", "summary.json"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_missing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hyp = hypotheses(tmp_path, "s1-a one two three\ns2-a six\n")
    assert command(data, hyp, "--out", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "%WER 33.33 [ 2 / 6, 0 ins, 2 del, 0 sub ] [PARTIAL]" in printed.out
    assert "s1-b" in printed.err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["ids"]["missing"] == ["s1-b"]
    assert command(data, hyp, "--allow-missing") == 0


def test_extra(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hyp = hypotheses(tmp_path, REFS + "s3-a seven\n")
    assert command(data, hyp) == 1
    assert "s3-a" in capsys.readouterr().err
    assert command(data, hyp, "--allow-extra") == 0
    assert "%WER 0.00 [ 0 / 6" in capsys.readouterr().out


def test_empty_hypotheses_are_deletions_and_listed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(data, hypotheses(tmp_path, "s1-a one two three\ns1-b\ns2-a six\n")) == 0
    printed = capsys.readouterr().out
    assert "2 del" in printed
    assert "1 empty hypotheses: s1-b" in printed


def test_a_duplicate_id_names_both_lines(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hyp = hypotheses(tmp_path, REFS + "s1-a one\n")
    assert command(data, hyp, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "hyp:4:" in error
    assert "line 1" in error
    assert not (tmp_path / "out").exists()


def test_wrong_arguments(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hyp = hypotheses(tmp_path, REFS)
    assert command(data, tmp_path / "nothing") == 2
    assert command(tmp_path, hyp) == 2
    assert command(data, hyp, "--normalizer", "kaldi") == 2
    assert command(data, hyp, "--seed", "-1") == 2
    assert "did you mean 'kaldi-basic'" in capsys.readouterr().err


def test_speaker_of_every_utterance_is_needed(data: Path, tmp_path: Path) -> None:
    (data / "utt2spk").write_text("s1-a s1\n")
    assert command(data, hypotheses(tmp_path, REFS)) == 1


def test_against_a_text(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hyp = hypotheses(tmp_path, REFS)
    worse = hypotheses(tmp_path, "s1-a one\ns1-b four five\ns2-a six\n", "worse")
    assert command(data, hyp, "--against", worse, "--out", tmp_path / "out") == 0
    assert "2 of 3 texts identical" in capsys.readouterr().out
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert comparison["delta"] == pytest.approx(100 * 2 / 6)
    assert command(data, hyp, "--against", hyp) == 0
    assert "p 1" in capsys.readouterr().out
    partial = hypotheses(tmp_path, "s1-a one\n", "partial")
    assert command(data, hyp, "--against", partial) == 1


def test_against_another_normaliser_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hyp = hypotheses(tmp_path, REFS)
    assert command(data, hyp, "--normalizer", "none", "--out", tmp_path / "plain") == 0
    assert command(data, hyp, "--against", tmp_path / "plain") == 2
    error = capsys.readouterr().err
    assert "one normaliser expected" in error and "--force" in error
    assert command(data, hyp, "--against", tmp_path / "plain", "--force") == 0
    assert command(data, hyp, "--normalizer", "none", "--against", tmp_path / "plain") == 0


def test_starts_light() -> None:
    code = "import sys, speechmtp.cli.score; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
