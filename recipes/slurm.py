#!/usr/bin/env python3
"""Run a command, or n numbered copies of it, as a Slurm job array; the same face as run.py.

    slurm.py [--num-threads N] [--mem 4G] [--gpu G] [--max-jobs-run N] [--pick all|failed|incomplete]
             [--shell] [--config conf/slurm.yaml] [--vanish-s 60] [--poll-s 2] [JOB=1:n] LOG COMMAND...

A job has succeeded when its done-file says 0 and sacct does not contradict. A job that has left the queue
without a done-file fails after --vanish-s seconds. The configuration is a flat YAML file that maps options
to sbatch's flags; `{}` stands for the value and an empty template for no flag:

    command: sbatch --export=ALL --partition=batch
    num_threads: --cpus-per-task={}
    mem: --mem={}
    gpu: --gres=gpu:{}
    gpu=0:
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from launcher import (
    Job,
    LaunchError,
    Plan,
    make_parser,
    parse_plan,
    pick_jobs,
    report,
    stop_on_signals,
    terminate_jobs,
)

PROGRAM = "slurm.py"
DEFAULTS = {
    "command": "sbatch --export=ALL",
    "num_threads": "--cpus-per-task={}",
    "mem": "--mem={}",
    "gpu": "--gres=gpu:{}",
    "gpu=0": "",
}
# States in which a job may still be on its way, or has ended well; all others are failures.
_NOT_FAILED = {
    "",
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "REQUEUED",
    "RESIZING",
    "SUSPENDED",
    "STAGE_OUT",
    "COMPLETED",
}


def read_config(path: Path | None) -> dict[str, str]:
    """Return option -> flag template; a missing conf/slurm.yaml means the defaults.

    Raises LaunchError with file and line for what is not a flat `key: value`.
    """
    config = dict(DEFAULTS)
    if path is None:
        path = Path("conf/slurm.yaml")
        if not path.exists():
            return config
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        bare = re.sub(r"(^|\s)#.*", "", line).rstrip()
        if not bare or bare == "---":
            continue
        match = re.match(r"^([A-Za-z_][\w]*(?:=\w+)?):(?:\s+(.*))?$", bare)
        if not match:
            raise LaunchError(f"{path}:{number}: found {bare.strip()!r}, expected 'option: flag'")
        value = (match[2] or "").strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        config[match[1]] = value
    return config


def sbatch_flags(config: dict[str, str], options: dict[str, str]) -> list[str]:
    """Return sbatch's flags for the options given; `option=value` in the configuration wins over `option`."""
    flags: list[str] = []
    for option, value in options.items():
        template = config.get(f"{option}={value}", config.get(option, ""))
        if value:
            flags += shlex.split(template.replace("{}", value))
    return flags


class Batch:
    """One submitted array: its folder of done-files, its Slurm id, what is known of every task."""

    def __init__(self, plan: Plan, jobs: list[int], config: dict[str, str]) -> None:
        """Write the batch script beside the logs; nothing is submitted yet."""
        self.plan = plan
        self.jobs = jobs
        self.config = config
        log = plan.log_of(jobs[0])
        base = Path(plan.log).name if not plan.job_name else re.sub(r"\W+", "-", Path(plan.log).name)
        self.folder = log.parent.resolve() / "q" / f"{base}.{os.getpid()}"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "plan.json").write_text(json.dumps(plan.to_dict()), encoding="utf-8")
        self.script = self.folder / "job.sh"
        words = [sys.executable, str(Path(__file__).resolve()), "--task", str(self.folder)]
        self.script.write_text(
            f"#!/bin/bash\ncd {shlex.quote(os.getcwd())} || exit 1\n"
            f'exec {shlex.join(words)} "${{SLURM_ARRAY_TASK_ID:?}}"\n',
            encoding="utf-8",
        )
        self.id = ""

    def submit(self) -> None:
        """Call sbatch. Raises LaunchError with its message when it refuses."""
        plan = self.plan
        array = ",".join(str(job) for job in self.jobs)
        if self.jobs == list(range(self.jobs[0], self.jobs[-1] + 1)):
            array = f"{self.jobs[0]}-{self.jobs[-1]}"
        array += f"%{plan.max_jobs_run}" if plan.max_jobs_run else ""
        options = {"num_threads": str(plan.threads), "mem": plan.mem, "gpu": str(plan.gpu)}
        command = [
            *shlex.split(self.config["command"]),
            "--parsable",
            f"--array={array}",
            f"--output={self.folder}/slurm.%a.out",
            *sbatch_flags(self.config, options),
            str(self.script),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise LaunchError(f"{command[0]}: {error.strerror}") from error
        match = re.match(r"(\d+)", done.stdout.strip())
        if done.returncode != 0 or not match:
            said = (done.stderr.strip() or done.stdout.strip() or "no job id").splitlines()[-1]
            raise LaunchError(f"{command[0]} (code {done.returncode}): {said}")
        self.id = match[1]

    def done_code(self, job: int) -> int | None:
        """Return the exit code in a task's done-file; None while there is none."""
        try:
            return int((self.folder / f"done.{job}").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def queued(self) -> set[int] | None:
        """Return the tasks that squeue lists, None when squeue cannot answer."""
        lines = _ask(["squeue", "-h", "-r", "-j", self.id, "-o", "%K"])
        if lines is None:
            return None
        return {int(word) for word in lines if word.isdigit()}

    def states(self) -> dict[int, str]:
        """Return task -> state as sacct has it; empty when sacct cannot answer."""
        lines = _ask(["sacct", "-n", "-X", "-P", "-j", self.id, "-o", "JobID,State"]) or []
        found = {}
        for line in lines:
            match = re.match(r"\d+_(\d+)\|(\S+)", line)
            if match:
                found[int(match[1])] = match[2].rstrip("+")
        return found

    def wait(self, poll_s: float, vanish_s: float) -> list[int]:
        """Wait for every task; return those that failed, with a line on stderr for each lost one."""
        waiting, failed = set(self.jobs), []
        gone_since: dict[int, float] = {}
        while waiting:
            done = {job: code for job in waiting if (code := self.done_code(job)) is not None}
            failed += [job for job, code in done.items() if code != 0]
            waiting -= set(done)
            if not waiting:
                break
            failed += self._lost(waiting, gone_since, vanish_s)
            waiting -= set(failed)
            time.sleep(poll_s if waiting else 0)
        states = self.states()
        for job in sorted(set(self.jobs) - set(failed)):
            if states.get(job, "") not in _NOT_FAILED:
                print(f"{PROGRAM}: job {self.id}_{job}: sacct says {states[job]}", file=sys.stderr)
                failed.append(job)
        return sorted(failed)

    def _lost(self, waiting: set[int], gone_since: dict[int, float], vanish_s: float) -> list[int]:
        """Return tasks that ended badly, or left the queue `vanish_s` ago, without a done-file."""
        queued = self.queued()
        if queued is None:
            return []
        lost = []
        for job in sorted(waiting - queued):
            gone_since.setdefault(job, time.monotonic())
            if time.monotonic() - gone_since[job] < vanish_s:
                continue
            # The file may have arrived since the last look (network file systems lag).
            if self.done_code(job) is None:
                state = self.states().get(job, "") or "not known to sacct"
                print(
                    f"{PROGRAM}: job {self.id}_{job} left the queue without a done-file (state: {state})",
                    file=sys.stderr,
                )
                lost.append(job)
        for job in waiting & queued:
            gone_since.pop(job, None)
        return lost

    def cancel(self) -> None:
        """Take the array off the queue."""
        if self.id:
            _ask(["scancel", self.id])


def _ask(command: list[str]) -> list[str] | None:
    """Return the lines that a Slurm client prints; None when it fails, which a busy controller causes.

    A job that Slurm has forgotten is an answer, no failure: squeue calls its id invalid.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        return None
    return done.stdout.splitlines()


def run_task(folder: Path, number: int) -> int:
    """Run one task on the node: log header, command, footer, then the done-file; return the exit code."""
    stop_on_signals()
    plan = Plan(**json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    job = Job(plan, number, dict(os.environ))
    try:
        while job.poll() is None:
            time.sleep(0.02)
    except SystemExit:
        terminate_jobs([job])
    code = job.code if job.code is not None else 1
    part = folder / f"done.{number}.tmp"
    part.write_text(f"{code}\n", encoding="ascii")
    part.replace(folder / f"done.{number}")
    return code


def main(argv: list[str]) -> int:
    """Run the command line; return the exit code."""
    if argv[:1] == ["--task"]:
        return run_task(Path(argv[1]), int(argv[2]))
    parser = make_parser(PROGRAM)
    parser.add_argument("--config", type=Path, metavar="FILE", help="option-to-flag map (conf/slurm.yaml)")
    parser.add_argument(
        "--vanish-s",
        type=float,
        default=60.0,
        metavar="S",
        help="how long a job may be off the queue without a done-file",
    )
    parser.add_argument("--poll-s", type=float, default=2.0, metavar="S", help="seconds between two looks")
    plan, args = parse_plan(parser, argv)
    stop_on_signals()
    jobs = pick_jobs(plan)
    if not jobs:
        return 0
    batch: Batch | None = None
    try:
        for job in jobs:  # an old footer must not be taken for a new one
            plan.log_of(job).unlink(missing_ok=True)
        batch = Batch(plan, jobs, read_config(args.config))
        batch.submit()
        failed = batch.wait(args.poll_s, args.vanish_s)
    except LaunchError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except SystemExit:
        if batch is not None:
            batch.cancel()
        raise
    return report(PROGRAM, plan, failed, len(jobs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
