"""--jobs and --threads of `transcribe` and `decode`: what they mean together, what is wrong, and the same texts."""

import argparse
import json
from pathlib import Path

import pytest
import torch

import speechmtp
from speechmtp.cli import decode, options
from speechmtp.cli.main import build_parser, main
from speechmtp.cli.options import settle_jobs
from speechmtp.config import read_yaml
from speechmtp.data.kaldi import read_data_dir
from speechmtp.errors import ConfigError

EXAMPLES = speechmtp.example("digits").parent


def arguments(*words: str) -> argparse.Namespace:
    return build_parser(["transcribe"]).parse_args(["transcribe", "a.wav", *words])


@pytest.mark.parametrize(
    ("words", "processes", "expected"),
    [((), 1, (8, 1)), (("--threads", "2"), 1, (4, 2)), (("--threads", "3"), 1, (2, 3)), (("--threads", "9"), 1, (1, 9)),
     (("--jobs", "3"), 1, (3, 1)), (("--jobs", "20", "--threads", "2"), 1, (20, 2)), ((), 3, (2, 1)),
     ((), 9, (1, 1)), (("--threads", "2"), 2, (2, 2)), (("--jobs", "3"), 4, (3, 1)), (("--threads", "0"), 1, (8, 1))],
)  # fmt: skip
def test_workers_take_the_cores_with_as_many_threads_each_as_were_asked_for(
    words: tuple[str, ...], processes: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "cores", lambda: 8)
    args = arguments(*words)
    settle_jobs(args, processes)
    assert (args.jobs, args.threads) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--jobs", "0"], "--jobs 0: expected 1 to 1024; without it one for each core"),
     (["--jobs", "-2"], "--jobs -2: expected 1 to 1024"), (["--jobs", "1025"], "--jobs 1025: expected 1 to 1024"),
     (["--threads", "-1"], "--threads -1: expected 0 .* to 1024")],
)  # fmt: skip
def test_wrong_numbers_are_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        settle_jobs(arguments(*words))
    for command in (["transcribe", "a.wav"], ["decode", str(EXAMPLES), "--out", str(tmp_path), "--nj", "2"]):
        assert main([*command, *words]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith(f"speechmtp: error: {' '.join(words)}: expected")
        assert printed.err.count("\n") == 1


def test_junk_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["transcribe", "a.wav", "--jobs", "many"])
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("speechmtp transcribe: error: argument --jobs: invalid int value: 'many'")


def test_transcribe_says_the_same_with_any_number_of_jobs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [str(speechmtp.example(name)) for name in ("date", "digits")]
    files[1:1] = [str(tmp_path / "none.wav")]
    said = []
    for options_ in (["--jobs", "1"], ["--jobs", "2"], ["--jobs", "2", "--threads", "2", "--batch-size", "1"]):
        assert main(["transcribe", *files, "--model", "an4", "--json", *options_]) == 2
        printed = capsys.readouterr()
        said.append((printed.out, printed.err))
    assert said[0] == said[1] == said[2]
    assert [json.loads(line)["file"] for line in said[0][0].splitlines()] == [files[0], *files[2:]]
    assert "none.wav: no such file" in said[0][1]


def test_decode_writes_the_same_with_any_number_of_jobs(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        command = ["decode", str(EXAMPLES), "--model", "an4", "--root", str(EXAMPLES), "--jobs", jobs]
        assert main([*command, "--temperature", "1", "--out", str(out)]) == 0
        settings = read_yaml(out / "config.yaml")
        assert (settings["jobs"], settings["threads"]) == (jobs, "1")
        traced = json.loads((out / "trace.json").read_text())["utterances"]
        assert list(traced) == sorted(u.id for u in read_data_dir(EXAMPLES, EXAMPLES).utterances)
    assert (tmp_path / "1" / "text").read_text() == (tmp_path / "2" / "text").read_text()
    torch.set_num_threads(before)


def test_processes_are_told_their_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(options, "cores", lambda: 7)
    monkeypatch.setattr(decode, "_run_here", lambda command, *more: commands.append(command) or ["a log"])
    command = ["decode", str(EXAMPLES), "--model", "an4", "--root", str(EXAMPLES), "--nj", "2", "--out", str(tmp_path)]
    assert main(command) == 2
    assert "--jobs 3 --threads 1" in " ".join(commands[0]) or "--threads 1 --jobs 3" in " ".join(commands[0])
