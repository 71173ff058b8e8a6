"""Stages and steps: what is skipped, what runs again and why, what happens on failure and on a kill."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

LIB = Path(__file__).resolve().parents[2] / "recipes" / "lib"
SCRIPT = r"""
set -euo pipefail
. "{lib}/stage.sh"
# begin options
stage=0
stop_stage=20
only=""
force=""
skip_train=false  # flag: x
nj=1
size=1
# end options
. "{lib}/parse_options.sh"
if begin_stage 1 data "the data"; then
  step --in raw --out data/one --out data/two -- ./make.sh data/one --rest data/two --nj "$nj" --size "$size"
fi
if begin_stage 5 tokens "the tokens"; then
  step --in data/one/text --stdout tokens.txt -- cat data/one/text
fi
if begin_stage 8 train "the model"; then
  step --in tokens.txt --resumable --out exp/v1.0 --makes exp/v1.0/model -- ./train.sh exp/v1.0 --size "$size"
fi
finish_stages
echo end
"""
MAKE = """#!/usr/bin/env bash
echo "$@" >> calls
mkdir -p "$1" "$3" && cat raw > "$1/text" && echo "$7" > "$3/text"
[ ! -e break ] || { echo broken >&2; exit 7; }
"""
TRAIN = """#!/usr/bin/env bash
echo "$@" >> calls
mkdir -p "$1" && echo step >> "$1/steps"
if [ -e hang ]; then touch "$1/ready"; sleep 30; fi
[ ! -e break ] || exit 9
[ -e lazy ] || touch "$1/model"
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A recipe of three stages in a folder with an odd name."""
    folder = tmp_path / "a b'c"
    folder.mkdir()
    (folder / "run.sh").write_text(SCRIPT.replace("{lib}", str(LIB)))
    for name, text in (("make.sh", MAKE), ("train.sh", TRAIN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "raw").write_text("first\n")
    return folder


def run(work: Path, *words: str, code: int = 0) -> list[str]:
    """Run the recipe; return its lines of both outputs."""
    done = subprocess.run(
        ["bash", "run.sh", *words],
        cwd=work,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=20,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout.splitlines()


def ran(lines: list[str]) -> list[str]:
    """Return what ran: the lines with a reason, without the name of the stage."""
    return [line.split(": ", 1)[1] for line in lines if ": running (" in line]


def test_second_run_skips_all(work: Path) -> None:
    assert ran(run(work)) == [
        "data/one: running (not done yet)",
        "tokens.txt: running (not done yet)",
        "exp/v1.0: running (not done yet)",
    ]
    lines = run(work, "--nj", "4")
    assert ran(lines) == []
    assert "stage 1 (data): data/one: up to date, skipped" in lines
    assert (work / "data/two/text").read_text() == "1\n"
    assert not list(work.rglob("*.tmp-*"))
    record = json.loads((work / "data/one/.done.json").read_text())
    assert record["command"] == ["./make.sh", "data/one", "--rest", "data/two", "--size", "1"]
    assert set(record["inputs"]["raw"]) == {"size", "mtime_ns", "sha256"}


def test_changed_input_runs_what_depends_on_it(work: Path) -> None:
    run(work)
    (work / "raw").write_text("other\n")
    assert ran(run(work)) == [
        "data/one: running (input raw changed)",
        "tokens.txt: running (input data/one/text changed)",
        "exp/v1.0: running (input tokens.txt changed)",
    ]
    assert (work / "exp/v1.0.old-1/model").exists()


def test_reasons_to_run_again(work: Path) -> None:
    run(work, "--stop-stage", "5")
    os.utime(work / "raw", (1, 1))
    assert ran(run(work, "--stop-stage", "5")) == [], "a file of the same content is unchanged"
    (work / "data/two/text").unlink()
    assert ran(run(work, "--stop-stage", "5")) == ["data/one: running (output data/two/text is gone)"]
    lines = ran(run(work, "--size", "2", "--stop-stage", "5"))
    assert lines == ["data/one: running (options changed: '--size 1' became '--size 2')"]
    assert (work / "data/two/text").read_text() == "2\n"


def test_force(work: Path) -> None:
    run(work, "--stop-stage", "5")
    for name in ("5", "tokens", "2,tokens"):
        assert ran(run(work, "--stop-stage", "5", "--force", name)) == ["tokens.txt: running (forced)"]


def test_selection(work: Path) -> None:
    assert len(ran(run(work, "--stop-stage", "5"))) == 2
    assert ran(run(work, "--stage", "6", "--skip-train")) == []
    assert ran(run(work, "--only", "train")) == ["exp/v1.0: running (not done yet)"]


def test_failing_stage_is_named_and_leaves_nothing(work: Path) -> None:
    (work / "break").touch()
    lines = run(work, code=7)
    assert lines[-1].endswith("stage 1 (data) failed with code 7; mend it and go on with --stage 1")
    assert "end" not in lines
    assert not (work / "data/one").exists()
    assert not list(work.rglob("*.tmp-*"))


def test_failure_keeps_the_older_output(work: Path) -> None:
    run(work)
    (work / "raw").write_text("other\n")
    (work / "break").touch()
    run(work, code=7)
    assert (work / "data/one/text").read_text() == "first\n"
    (work / "break").unlink()
    assert ran(run(work))[0] == "data/one: running (not done yet)"


def test_missing_input_and_unkept_promise(work: Path) -> None:
    (work / "lazy").touch()
    lines = run(work, code=1)
    assert "step: exp/v1.0/model: the command succeeded but did not write it" in lines
    (work / "raw").unlink()
    assert "step: raw: no such input" in run(work, code=1)


def test_leftovers_of_a_killed_run_are_removed(work: Path) -> None:
    (work / "data/one.tmp-999999999").mkdir(parents=True)
    (work / "data/one.tmp-1").mkdir()
    run(work)
    assert not (work / "data/one.tmp-999999999").exists()
    assert (work / "data/one.tmp-1").exists(), "process 1 lives: not a leftover"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_training_goes_on(work: Path, number: signal.Signals) -> None:
    (work / "hang").touch()
    process = subprocess.Popen(["bash", "run.sh"], cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(work / "exp/v1.0/ready")
    process.send_signal(number)
    process.wait(timeout=10)
    (work / "hang").unlink()
    lines = run(work)
    assert "stage 8 (train): going on where it was stopped" in lines
    assert (work / "calls").read_text().splitlines()[-1] == "exp/v1.0 --size 1 --resume"
    assert (work / "exp/v1.0/steps").read_text() == "step\nstep\n"
    assert not (work / "exp/v1.0.old-1").exists()


def test_nothing_outlives_a_killed_script(work: Path) -> None:
    train = work / "train.sh"
    train.write_text('#!/usr/bin/env bash\nmkdir -p "$1"; echo $$ > "$1/pid"; mv "$1/pid" "$1/ready"; exec sleep 30\n')
    process = subprocess.Popen(["bash", "run.sh"], cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(work / "exp/v1.0/ready")
    child = int((work / "exp/v1.0/ready").read_text())
    process.kill()
    process.wait(timeout=10)
    deadline = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < deadline, "the command outlived its script"
        time.sleep(0.02)


def test_other_options_start_anew(work: Path) -> None:
    run(work, "--stop-stage", "5")
    (work / "break").touch()
    run(work, "--stage", "8", code=9)
    (work / "break").unlink()
    lines = run(work, "--stage", "8", "--size", "3")
    assert "stage 8 (train): exp/v1.0 is kept as exp/v1.0.old-1" in lines
    assert (work / "calls").read_text().splitlines()[-1] == "exp/v1.0 --size 3"


def alive(pid: int) -> bool:
    """True while the process runs; a zombie whose new parent has not looked yet counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(path: Path, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
