"""run.py keeps the contract of Kaldi's run.pl, and stops what it started."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "recipes" / "run.py"


def run(folder: Path, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *words],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def test_log_has_header_and_footer(tmp_path: Path) -> None:
    done = run(tmp_path, "--num-threads", "2", "log/a.log", "echo", "a b", "$HOME;")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "log/a.log").read_text().splitlines()
    assert lines[0] == "# echo 'a b' '$HOME;'"
    assert lines[1].startswith("# Started at ")
    assert lines[3] == "a b $HOME;"
    assert re.fullmatch(r"# Accounting: time=\d+ threads=2", lines[-2])
    assert re.match(r"# Ended \(code 0\) at ", lines[-1])


def test_footer_starts_a_line(tmp_path: Path) -> None:
    run(tmp_path, "a.log", "printf", "no newline")
    assert (tmp_path / "a.log").read_text().splitlines()[3:5][0] == "no newline"


def test_jobs_and_whole_word(tmp_path: Path) -> None:
    done = run(tmp_path, "JOB=1:3", "d/JOB/x.JOB.log", "echo", "JOB", "MYJOBDIR", "JOBS", "in/JOB.scp")
    assert done.returncode == 0, done.stderr
    for job in (1, 2, 3):
        text = (tmp_path / f"d/{job}/x.{job}.log").read_text()
        assert f"\n{job} MYJOBDIR JOBS in/{job}.scp\n" in text


def test_failing_job_is_named_with_its_end(tmp_path: Path) -> None:
    script = "for i in $(seq 50); do echo line $i; done; test JOB != 2"
    done = run(tmp_path, "--shell", "JOB=1:3", "x.JOB.log", script)
    assert done.returncode == 1
    assert "run.py: 1 / 3 failed, log is in x.*.log" in done.stderr
    assert "x.2.log" in done.stderr
    assert "line 50" in done.stderr
    assert "line 10\n" not in done.stderr
    assert "Ended (code 0)" in (tmp_path / "x.3.log").read_text()


@pytest.mark.parametrize("words", [("false | cat",), ("false", "|", "cat")])
def test_failure_behind_a_pipe(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(tmp_path, "--shell", "x.log", *words)
    assert done.returncode == 1
    assert "1 / 1 failed, log is in x.log" in done.stderr
    assert "# Ended (code 1)" in (tmp_path / "x.log").read_text()


def test_missing_program(tmp_path: Path) -> None:
    assert run(tmp_path, "x.log", "no-such-program").returncode == 1
    assert "Ended (code 127)" in (tmp_path / "x.log").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("JOB=1:2", "x.log", "true"), "must contain the word JOB"),
        (("JOB=1:2", "xJOB_.log", "true"), "must contain the word JOB"),
        (("JOB=3:1", "x.JOB.log", "true"), "invalid range JOB=3:1"),
        (("JOB=0:1", "x.JOB.log", "true"), "invalid range"),
        (("x.log",), "expected LOG and COMMAND"),
        (("--num-threads", "0", "x.log", "true"), "--num-threads: found 0"),
        (("--pick", "some", "x.log", "true"), "invalid choice"),
        (("--nope", "x.log", "true"), "unrecognized arguments: --nope"),
    ],
)
def test_usage_errors(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_pick(tmp_path: Path) -> None:
    count = "echo JOB >> ran; test ! -e fail.JOB"
    (tmp_path / "fail.2").touch()
    assert run(tmp_path, "--shell", "--max-jobs-run", "1", "JOB=1:4", "x.JOB.log", count).returncode == 1
    log = tmp_path / "x.4.log"
    log.write_text("# killed before its footer\n")
    (tmp_path / "fail.2").unlink()
    (tmp_path / "ran").unlink()
    assert run(tmp_path, "--shell", "--pick", "failed", "JOB=1:4", "x.JOB.log", count).returncode == 0
    assert (tmp_path / "ran").read_text().split() == ["2"]
    (tmp_path / "ran").unlink()
    assert run(tmp_path, "--shell", "--pick", "incomplete", "JOB=1:4", "x.JOB.log", count).returncode == 0
    assert (tmp_path / "ran").read_text().split() == ["4"]


def test_max_jobs_run(tmp_path: Path) -> None:
    script = "mkdir lock || exit 1; sleep 0.1; rmdir lock"
    done = run(tmp_path, "--shell", "--max-jobs-run", "1", "JOB=1:4", "x.JOB.log", script)
    assert done.returncode == 0, done.stderr


def test_gpus_are_shared_out(tmp_path: Path) -> None:
    script = "echo devices=$CUDA_VISIBLE_DEVICES; sleep 0.2"
    done = run(
        tmp_path,
        "--shell",
        "--gpu",
        "2",
        "JOB=1:2",
        "x.JOB.log",
        script,
        environment={"CUDA_VISIBLE_DEVICES": "0,1,2,3"},
    )
    assert done.returncode == 0, done.stderr
    assert "devices=0,1" in (tmp_path / "x.1.log").read_text()
    assert "devices=2,3" in (tmp_path / "x.2.log").read_text()
    done = run(tmp_path, "--gpu", "1", "x.log", "true", environment={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2
    assert "found 0 GPUs" in done.stderr


def test_sigterm_reaches_grandchildren(tmp_path: Path) -> None:
    # The shell dies at once; the program below it needs a moment to save its work.
    saver = (
        "import signal,sys,time,pathlib\n"
        "def stop(*_):\n"
        "    time.sleep(0.3); pathlib.Path('saved').touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); pathlib.Path('ready').touch()\n"
        "time.sleep(30); pathlib.Path('survived').touch()\n"
    )
    (tmp_path / "saver.py").write_text(saver)
    process = subprocess.Popen(
        [sys.executable, str(RUN), "--shell", "x.log", f"{sys.executable} saver.py; echo after"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()
    assert "Ended (code 143)" in (tmp_path / "x.log").read_text()
    assert "after" not in (tmp_path / "x.log").read_text().splitlines()[3:]


def wait_for(path: Path, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
