#!/usr/bin/env python3
"""Run a command, or n numbered copies of it, on this machine (the contract of Kaldi's run.pl).

    run.py [--num-threads N] [--gpu G] [--max-jobs-run N] [--pick all|failed|incomplete] [--shell]
           [JOB=1:n] LOG COMMAND...

Each job writes LOG (with JOB replaced by its number). Exit code 0 when all jobs succeeded, 1 when any
failed, 2 for a wrong command line, 128 + n when stopped by signal n.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from launcher import Job, Plan, make_parser, parse_plan, pick_jobs, report, stop_on_signals, terminate_jobs

PROGRAM = "run.py"


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs that jobs may use: CUDA_VISIBLE_DEVICES, else what nvidia-smi lists."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name]
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, line in enumerate(found.stdout.splitlines()) if line.startswith("GPU ")]


def run_jobs(plan: Plan, jobs: list[int], gpus: list[str]) -> list[int]:
    """Run the jobs, at most so many at a time as the plan or the machine allows; return those that failed.

    With GPUs, each running job gets `plan.gpu` of them through CUDA_VISIBLE_DEVICES.
    """
    slots = len(gpus) // plan.gpu if plan.gpu else max(1, cpus() // plan.threads)
    limit = plan.max_jobs_run or max(1, slots)
    if plan.gpu:
        limit = max(1, min(limit, slots))
    waiting = list(jobs)
    running: list[Job] = []
    failed: list[int] = []
    free = list(gpus)
    held: dict[int, list[str]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                number = waiting.pop(0)
                environment = dict(os.environ)
                if plan.gpu and gpus:
                    held[number] = [free.pop(0) for _ in range(plan.gpu)]
                    environment["CUDA_VISIBLE_DEVICES"] = ",".join(held[number])
                running.append(Job(plan, number, environment))
            for job in [job for job in running if job.poll() is not None]:
                running.remove(job)
                free.extend(held.pop(job.number, []))
                if job.code != 0:
                    failed.append(job.number)
            time.sleep(0.02)
    finally:
        terminate_jobs(running)
    return sorted(failed)


def cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(argv: list[str]) -> int:
    """Run the command line; return the exit code."""
    parser = make_parser(PROGRAM)
    plan, _ = parse_plan(parser, argv)
    gpus = visible_gpus() if plan.gpu else []
    if plan.gpu and len(gpus) < plan.gpu:
        parser.error(f"--gpu {plan.gpu}: found {len(gpus)} GPUs; use --gpu 0, or see CUDA_VISIBLE_DEVICES")
    stop_on_signals()
    jobs = pick_jobs(plan)
    return report(PROGRAM, plan, run_jobs(plan, jobs, gpus), len(jobs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
