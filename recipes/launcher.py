"""What run.py and slurm.py share: options, JOB substitution, log header and footer, failure reports.

The face is that of Kaldi's run.pl:

    LAUNCHER [options] [JOB=1:n] LOG COMMAND...

Changed on purpose: the command runs without a shell unless --shell is given, only the whole word JOB is
substituted, and the end of a failing log is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

TAIL_LINES = 30
SHOWN_FAILURES = 3
_ARRAY = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)=(\d+)(?::(\d+))?$")
_ENDED = re.compile(rb"^# Ended \(code (\d+)\)", re.MULTILINE)


class LaunchError(Exception):
    """A usage error or a failed submission; the message is one line for the user."""


@dataclass(frozen=True)
class Plan:
    """One launcher command line: which jobs, which log, which command."""

    command: list[str]
    log: str
    job_name: str = ""
    first: int = 1
    last: int = 1
    threads: int = 1
    mem: str = ""
    gpu: int = 0
    max_jobs_run: int = 0
    pick: str = "all"
    shell: bool = False

    def jobs(self) -> list[int]:
        """Return the job numbers, in order."""
        return list(range(self.first, self.last + 1))

    def log_of(self, job: int) -> Path:
        """Return the log path of one job."""
        return Path(self._put(self.log, job))

    def argv_of(self, job: int) -> list[str]:
        """Return the argument vector of one job, wrapped in bash when a shell was asked for."""
        words = [self._put(word, job) for word in self.command]
        if not self.shell:
            return words
        script = words[0] if len(words) == 1 else " ".join(_shell_word(word) for word in words)
        return ["bash", "-euo", "pipefail", "-c", script]

    def title_of(self, job: int) -> str:
        """Return the command of one job as the log header shows it."""
        argv = self.argv_of(job)
        return argv[-1] if self.shell else shlex.join(argv)

    def _put(self, word: str, job: int) -> str:
        return substitute(word, self.job_name, job) if self.job_name else word

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON, from which `Plan(**values)` is this plan again."""
        return asdict(self)


def _shell_word(word: str) -> str:
    """Leave words without blanks to the shell (so | and > work); quote the others, as run.pl does."""
    return word if word and not re.search(r"\s", word) else shlex.quote(word)


def substitute(word: str, name: str, job: int | str) -> str:
    """Replace the whole word `name` by the job number; MYJOBDIR and JOB_1 stay as they are."""
    return re.sub(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", str(job), word)


def make_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of the options that all launchers have."""
    parser = argparse.ArgumentParser(
        prog=program,
        allow_abbrev=False,
        usage=f"{program} [options] [JOB=1:n] LOG COMMAND...",
        description="Run a command, or n numbered copies of it in parallel, each with its own log file.",
    )
    parser.add_argument(
        "--num-threads",
        dest="threads",
        type=int,
        default=1,
        metavar="N",
        help="threads of a job; sets OMP_NUM_THREADS when above 1",
    )
    parser.add_argument("--mem", default="", metavar="4G", help="memory of a job (used by slurm.py)")
    parser.add_argument("--gpu", type=int, default=0, metavar="G", help="accelerators of a job")
    parser.add_argument(
        "--max-jobs-run",
        type=int,
        default=0,
        metavar="N",
        help="jobs that run at a time (default: CPUs, or GPUs with --gpu)",
    )
    parser.add_argument(
        "--pick",
        choices=["all", "failed", "incomplete"],
        default="all",
        help="run only the jobs whose earlier log shows failure, or no success",
    )
    parser.add_argument("--shell", action="store_true", help="run the command by bash -euo pipefail")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def parse_plan(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[Plan, argparse.Namespace]:
    """Parse a launcher's command line; exits with code 2 on a usage error."""
    args = parser.parse_args(argv)
    rest: list[str] = args.rest[1:] if args.rest[:1] == ["--"] else args.rest
    name, first, last = "", 1, 1
    match = _ARRAY.match(rest[0]) if rest else None
    if match:
        name, first, last = match[1], int(match[2]), int(match[3] or match[2])
        rest = rest[1:]
        if first > last or first < 1:
            parser.error(f"invalid range {match[0]}, expected {name}=1:n with 1 <= n")
    if len(rest) < 2:
        parser.error(f"expected LOG and COMMAND, found {len(rest)} word(s)")
    log, command = rest[0], rest[1:]
    if last > first and substitute(log, name, 0) == log:
        parser.error(f"{log}: the log of {last - first + 1} jobs must contain the word {name}")
    for option, count, least in (
        ("--num-threads", args.threads, 1),
        ("--gpu", args.gpu, 0),
        ("--max-jobs-run", args.max_jobs_run, 0),
    ):
        if count < least:
            parser.error(f"{option}: found {count}, expected a number from {least} on")
    plan = Plan(
        command, log, name, first, last, args.threads, args.mem, args.gpu, args.max_jobs_run, args.pick, args.shell
    )
    return plan, args


def log_status(path: Path) -> str:
    """Return 'completed', 'failed' or 'incomplete' (no log, or no footer) from an earlier log."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            ends = _ENDED.findall(file.read())
    except FileNotFoundError:
        return "incomplete"
    if not ends:
        return "incomplete"
    return "completed" if int(ends[-1]) == 0 else "failed"


def pick_jobs(plan: Plan) -> list[int]:
    """Return the jobs to run under --pick."""
    wanted = {
        "all": {"completed", "failed", "incomplete"},
        "failed": {"failed"},
        "incomplete": {"failed", "incomplete"},
    }[plan.pick]
    return [job for job in plan.jobs() if log_status(plan.log_of(job)) in wanted]


class Job:
    """One running command with its log; the child leads a process group of its own."""

    def __init__(self, plan: Plan, number: int, environment: dict[str, str]) -> None:
        """Write the log header and start the command; a program that is missing gives code 127."""
        self.number = number
        self.threads = plan.threads
        self.path = plan.log_of(number)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.time()
        self.process: subprocess.Popen[bytes] | None = None
        self.code: int | None = None
        header = f"# {plan.title_of(number)}\n# Started at {time.ctime(self.started)}\n#\n"
        self.path.write_text(header, encoding="utf-8")
        if plan.threads > 1:
            environment = {**environment, "OMP_NUM_THREADS": str(plan.threads)}
        with self.path.open("ab") as log:
            try:
                self.process = subprocess.Popen(
                    plan.argv_of(number),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                log.write(f"{plan.argv_of(number)[0]}: {error.strerror or error}\n".encode())
                self._finish(126 if isinstance(error, PermissionError) else 127)

    def poll(self) -> int | None:
        """Return the exit code when the job has ended (128 + signal when killed), else None."""
        if self.code is None and self.process is not None:
            status = self.process.poll()
            if status is not None:
                self._finish(status if status >= 0 else 128 - status)
        return self.code

    def _finish(self, code: int) -> None:
        self.code = code
        seconds = round(time.time() - self.started)
        with self.path.open("r+b") as log:
            log.seek(0, os.SEEK_END)
            if log.tell() > 0:
                log.seek(-1, os.SEEK_END)
                if log.read(1) != b"\n":
                    log.write(b"\n")
            log.write(
                f"# Accounting: time={seconds} threads={self.threads}\n"
                f"# Ended (code {code}) at {time.ctime()}, elapsed time {seconds} seconds\n".encode()
            )


def terminate_jobs(jobs: list[Job], patience_s: float = 30.0) -> None:
    """Stop running jobs: SIGTERM to every process group, SIGKILL after `patience_s`, then the log footers.

    A group is waited for until its last member is gone, so that a program below a shell that has already
    died can still save its work.
    """
    alive = {job.process.pid: job for job in jobs if job.process is not None}
    for group in alive:
        _signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while alive:
        late = time.monotonic() > deadline
        for group, job in list(alive.items()):
            job.poll()
            if not _signal_group(group, signal.SIGKILL if late else None):
                del alive[group]
        time.sleep(0.02)


def _signal_group(group: int, number: signal.Signals | None) -> bool:
    """Signal a process group (None: only look); return False when no process of it is left."""
    try:
        os.killpg(group, number or 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def report(program: str, plan: Plan, failed: list[int], total: int) -> int:
    """Print which jobs failed and how their logs end; return the launcher's exit code, 0 or 1."""
    if not failed:
        return 0
    shown = str(plan.log_of(failed[0])) if total == 1 else substitute(plan.log, plan.job_name, "*")
    for job in failed[:SHOWN_FAILURES]:
        path = plan.log_of(job)
        print(f"{program}: last lines of {path}:", file=sys.stderr)
        for line in tail(path):
            print(f"    {line}", file=sys.stderr)
    if len(failed) > SHOWN_FAILURES:
        names = ", ".join(str(plan.log_of(job)) for job in failed[SHOWN_FAILURES:])
        print(f"{program}: also failed: {names}", file=sys.stderr)
    print(f"{program}: {len(failed)} / {total} failed, log is in {shown}", file=sys.stderr)
    return 1


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log, bytes that are no UTF-8 replaced; empty when there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except FileNotFoundError:
        return ["(no log was written)"]


def stop_on_signals() -> None:
    """Turn SIGTERM, SIGINT and SIGHUP into SystemExit(128 + number), so that `finally` blocks run."""

    def stop(number: int, frame: object) -> None:
        # One signal is enough: a second one must not break the clean-up off.
        for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
