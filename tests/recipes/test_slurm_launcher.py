"""slurm.py against stand-ins for sbatch, squeue, sacct and scancel."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLURM = Path(__file__).resolve().parents[2] / "recipes" / "slurm.py"
# Runs the tasks at once, each in the background. FAKE_LOSE names a task that vanishes.
SBATCH = r"""#!/usr/bin/env bash
printf '%s\n' "$@" > "$FAKE/sbatch.args"
[ -z "$FAKE_REFUSE" ] || { echo "sbatch: error: invalid partition" >&2; exit 1; }
for word in "$@"; do case $word in --array=*) array=${word#--array=};; esac; script=$word; done
array=${array%%%*}
for part in ${array//,/ }; do
  for task in $(seq "${part%-*}" "${part#*-}"); do
    [ "$task" = "$FAKE_LOSE" ] && continue
    touch "$FAKE/queue.$task"
    ( SLURM_ARRAY_TASK_ID=$task bash "$script"; rm -f "$FAKE/queue.$task" ) > /dev/null 2>&1 &
  done
done
echo "77;cluster"
"""
SQUEUE = r"""#!/usr/bin/env bash
found=$(ls "$FAKE" | sed -n 's/^queue\.//p')
[ -n "$found" ] || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
echo "$found"
"""
SACCT = '#!/usr/bin/env bash\ncat "$FAKE/sacct.out" 2> /dev/null\n'
SCANCEL = '#!/usr/bin/env bash\necho "$@" > "$FAKE/scancel.args"\n'


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Stand-ins on PATH; returns the environment for slurm.py."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("sacct", SACCT), ("scancel", SCANCEL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "fake").mkdir()
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "FAKE": str(tmp_path / "fake"),
        "FAKE_LOSE": "",
        "FAKE_REFUSE": "",
    }


def run(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SLURM), "--poll-s", "0.05", "--vanish-s", "0.3", *words],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )


def sbatch_words(tmp_path: Path) -> list[str]:
    return (tmp_path / "fake/sbatch.args").read_text().splitlines()


def test_success(tmp_path: Path, cluster: dict[str, str]) -> None:
    work = tmp_path / "a b'c"
    work.mkdir()
    done = run(
        work,
        cluster,
        "--mem",
        "4G",
        "--num-threads",
        "2",
        "--max-jobs-run",
        "2",
        "JOB=1:3",
        "log/x.JOB.log",
        "echo",
        "JOB is",
        "$HOME",
    )
    assert done.returncode == 0, done.stderr
    for job in (1, 2, 3):
        text = (work / f"log/x.{job}.log").read_text()
        assert f"\n{job} is $HOME\n" in text
        assert "Ended (code 0)" in text
    words = sbatch_words(tmp_path)
    assert "--array=1-3%2" in words
    assert "--mem=4G" in words
    assert "--cpus-per-task=2" in words
    assert not any("gres" in word for word in words)


def test_failing_job(tmp_path: Path, cluster: dict[str, str]) -> None:
    done = run(tmp_path, cluster, "--shell", "JOB=1:3", "x.JOB.log", "echo said JOB; test JOB != 2")
    assert done.returncode == 1
    assert "slurm.py: 1 / 3 failed, log is in x.*.log" in done.stderr
    assert "said 2" in done.stderr


def test_job_that_vanishes(tmp_path: Path, cluster: dict[str, str]) -> None:
    (tmp_path / "fake/sacct.out").write_text("77_1|COMPLETED\n77_2|NODE_FAIL\n")
    start = time.monotonic()
    done = run(tmp_path, {**cluster, "FAKE_LOSE": "2"}, "JOB=1:2", "x.JOB.log", "true")
    assert 0.3 <= time.monotonic() - start < 10
    assert done.returncode == 1
    assert "job 77_2 left the queue without a done-file (state: NODE_FAIL)" in done.stderr
    assert "1 / 2 failed" in done.stderr


def test_sacct_can_contradict(tmp_path: Path, cluster: dict[str, str]) -> None:
    (tmp_path / "fake/sacct.out").write_text("77_1|OUT_OF_MEMORY\n77_2|COMPLETING\n")
    done = run(tmp_path, cluster, "JOB=1:2", "x.JOB.log", "true")
    assert done.returncode == 1
    assert "77_1: sacct says OUT_OF_MEMORY" in done.stderr
    assert "77_2" not in done.stderr


def test_refused_submission(tmp_path: Path, cluster: dict[str, str]) -> None:
    done = run(tmp_path, {**cluster, "FAKE_REFUSE": "1"}, "x.log", "true")
    assert done.returncode == 1
    assert done.stderr == "slurm.py: sbatch (code 1): sbatch: error: invalid partition\n"


def test_configuration(tmp_path: Path, cluster: dict[str, str]) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/slurm.yaml").write_text(
        'command: sbatch --partition=big # the queue\nmem: "--mem-per-cpu={}"\ngpu: -G {}\ngpu=0: --nice\n'
    )
    assert run(tmp_path, cluster, "--mem", "2G", "x.log", "true").returncode == 0
    assert {"--partition=big", "--mem-per-cpu=2G", "--nice"} <= set(sbatch_words(tmp_path))
    assert run(tmp_path, cluster, "--gpu", "2", "x.log", "true").returncode == 0
    words = sbatch_words(tmp_path)
    assert words[words.index("-G") + 1] == "2"
    assert "--nice" not in words
    (tmp_path / "conf/slurm.yaml").write_text("command: sbatch\n- mem\n")
    done = run(tmp_path, cluster, "x.log", "true")
    assert done.returncode == 1
    assert "conf/slurm.yaml:2: found '- mem'" in done.stderr


def test_pick_submits_only_those(tmp_path: Path, cluster: dict[str, str]) -> None:
    for job, code in ((1, 0), (2, 1), (3, 0), (4, 1)):
        (tmp_path / f"x.{job}.log").write_text(f"# true\n# Ended (code {code}) at noon\n")
    done = run(tmp_path, cluster, "--pick", "failed", "JOB=1:4", "x.JOB.log", "echo", "again")
    assert done.returncode == 0, done.stderr
    assert "--array=2,4" in sbatch_words(tmp_path)
    assert "again" in (tmp_path / "x.4.log").read_text()
    assert "again" not in (tmp_path / "x.1.log").read_text()


def test_sigterm_cancels(tmp_path: Path, cluster: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, str(SLURM), "--poll-s", "0.05", "x.log", "sleep", "2"], cwd=tmp_path, env=cluster
    )
    deadline = time.monotonic() + 10
    while not (tmp_path / "x.log").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    assert (tmp_path / "fake/scancel.args").read_text() == "77\n"
