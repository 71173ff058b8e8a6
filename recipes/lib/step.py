#!/usr/bin/env python3
"""Run one step of a recipe unless its inputs and options are those of its last success.

    step.py [--in PATH]... [--out PATH]... [--stdout FILE] [--in-place | --resumable]
            [--makes PATH]... [--record FILE] [--via LAUNCHER --log LOG] -- COMMAND...

Words of the command that are a declared output, or a path below one, are replaced by a temporary name
beside it; after success the outputs are renamed into place and a record is written: stage, version, the
command, and each input file's size, mtime and (below 1 MB) SHA-256. When the record equals what would be
run now, and every output is there, one line says so and nothing runs. Else the line names the reason.

--stdout FILE   what the command prints goes to this output too
--in-place      the command writes its outputs itself (a file it merges into, folders of its own choice)
--resumable     in place, and continued with --resume after an interruption; an output made from other
                inputs or options is moved to OUT.old-N first
--makes PATH    must exist after the command
--via, --log    run the command through a launcher such as "run.py --gpu 1"; no part of the record

A folder's record is its file .done.json, a file's record is .NAME.done.json beside it. The exit code is the
command's.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from done import StepError, difference, files_of, fingerprint, lasting, read_record, version, write_record


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; what stands behind `--` is the command."""
    parser = argparse.ArgumentParser(prog="step", allow_abbrev=False)
    for option, name in (("--in", "ins"), ("--out", "outs"), ("--makes", "makes")):
        parser.add_argument(option, dest=name, action="append", default=[], type=Path)
    for option in ("--stdout", "--record", "--log"):
        parser.add_argument(option, type=Path)
    parser.add_argument("--via", default="")
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--resumable", action="store_true")
    if "--" not in argv:
        parser.error("expected -- COMMAND")
    cut = argv.index("--")
    args = parser.parse_args(argv[:cut])
    args.command = argv[cut + 1 :]
    args.outs += [args.stdout] if args.stdout else []
    if not args.command or not args.outs:
        parser.error("expected at least one --out and a command")
    args.in_place = args.in_place or args.resumable
    return args


def record_path(args: argparse.Namespace, kind: str = "done") -> Path:
    """Return where the record of a step stands."""
    if args.record:
        return Path(args.record) if kind == "done" else args.record.with_suffix(f".{kind}.json")
    first: Path = args.outs[0]
    if args.resumable or first.is_dir() or (not first.exists() and args.stdout != first and not first.suffix):
        return first / f".{kind}.json"
    return first.parent / f".{first.name}.{kind}.json"


def temporary(path: Path) -> Path:
    """Return the temporary name beside a path; the suffix stays, since programs look at it."""
    return path.with_name(f"{path.stem}.tmp-{os.getpid()}{path.suffix}")


def clear_leftovers(path: Path) -> None:
    """Remove temporary outputs whose process is gone (killed without a chance to clean up)."""
    if not path.parent.is_dir():
        return
    for old in path.parent.glob(f"{_escape(path.stem)}.tmp-*{_escape(path.suffix)}"):
        pid = old.name[len(path.stem) + 5 : len(old.name) - len(path.suffix)]
        if pid.isdigit() and not _alive(int(pid)):
            remove(old)


def _escape(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_in_place(made: Path, final: Path) -> None:
    """Rename a finished output to its name; an older one is replaced."""
    if not made.exists():
        raise StepError(f"{final}: the command succeeded but did not write it")
    final.parent.mkdir(parents=True, exist_ok=True)
    old = final.with_name(f"{final.name}.tmp-{os.getpid()}-old")
    if final.is_dir():
        final.rename(old)
    made.replace(final)
    remove(old)


def redirect(words: list[str], names: dict[Path, Path]) -> list[str]:
    """Replace words that are an output, or lie below one, by the temporary name."""
    result = []
    for word in words:
        for final, part in names.items():
            if word == str(final):
                word = str(part)
            elif word.startswith(f"{final}/"):
                word = str(part) + word[len(str(final)) :]
            else:
                continue
            break
        result.append(word)
    return result


def end_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies, also by SIGKILL; elsewhere do nothing."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGTERM), 0, 0, 0)


def execute(words: list[str], capture: Path | None) -> int:
    """Run a command and return its exit code; its standard output is copied to `capture` as it comes.

    SIGTERM is passed on (a terminal's SIGINT reaches the child by itself), and the code is then 128 + the
    signal's number. The command does not outlive the script that called this one.
    """
    pipe = subprocess.PIPE if capture else None
    end_with_parent()
    try:
        child = subprocess.Popen(words, stdout=pipe, preexec_fn=end_with_parent)
    except OSError as error:
        raise StepError(f"{words[0]}: {error.strerror}") from error

    def forward(number: int, frame: object) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGHUP, forward)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    if capture and child.stdout:
        capture.parent.mkdir(parents=True, exist_ok=True)
        with capture.open("wb") as file:
            for line in child.stdout:
                file.write(line)
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
    code = child.wait()
    return code if code >= 0 else 128 - code


def move_aside(path: Path) -> Path:
    """Rename an output that took long to make to the first free NAME.old-N; return the new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def prepare_resumable(args: argparse.Namespace, record: dict[str, Any], forced: bool, say: Any) -> list[str]:
    """Return the command to run: with --resume when the same run had begun; an other one is moved aside."""
    out: Path = args.outs[0]
    begun_path = record_path(args, "begun")
    begun = read_record(begun_path)
    if begun is not None:
        reason = "forced" if forced else difference(begun, record)
        if not reason:
            say("going on where it was stopped")
            return [*args.command, "--resume"]
        say(f"{out} is kept as {move_aside(out)}")
    write_record(begun_path, record)
    return list(args.command)


def run_step(args: argparse.Namespace) -> int:
    """Skip or run one step; return its exit code. Raises StepError."""
    number, name = os.environ.get("STAGE_NUMBER", "?"), os.environ.get("STAGE_NAME", "?")
    forced = os.environ.get("STAGE_FORCE") == "true"
    shown = args.outs[0]

    def say(text: str) -> None:
        print(f"stage {number} ({name}): {text}", flush=True)

    path = record_path(args)
    old = read_record(path)
    record = {
        "stage": f"{number} {name}",
        "version": version(),
        "command": lasting(args.command),
        "inputs": fingerprint(args.ins, (old or {}).get("inputs", {})),
    }
    reason = "forced" if forced else difference(old, record)
    gone = [p for p in [*args.outs, *args.makes, *(Path(f) for f in (old or {}).get("outputs", []))] if not p.exists()]
    if not reason and gone:
        reason = f"output {gone[0]} is gone"
    if not reason:
        say(f"{shown}: up to date, skipped")
        return 0
    say(f"{shown}: running ({reason})")
    started = time.monotonic()
    path.unlink(missing_ok=True)
    code = run_in_place(args, record, forced, say) if args.in_place else run_aside(args)
    if code != 0:
        return code
    missing = [p for p in [*args.outs, *args.makes] if not p.exists()]
    if missing:
        raise StepError(f"{missing[0]}: the command succeeded but did not write it")
    record["outputs"] = [] if args.in_place else [str(f) for out in args.outs for f in files_of(out)]
    write_record(record_path(args), record)
    say(f"{shown}: done in {time.monotonic() - started:.1f} s")
    return 0


def launched(args: argparse.Namespace, words: list[str]) -> list[str]:
    """Return the command line, behind its launcher and log where there is one."""
    return [*shlex.split(args.via), str(args.log), *words] if args.via else words


def run_in_place(args: argparse.Namespace, record: dict[str, Any], forced: bool, say: Any) -> int:
    """Run a command that writes its own outputs; return its exit code."""
    words = prepare_resumable(args, record, forced, say) if args.resumable else args.command
    return execute(launched(args, words), args.stdout)


def run_aside(args: argparse.Namespace) -> int:
    """Run a command under temporary names and rename what it wrote; return its exit code."""
    for out in args.outs:
        clear_leftovers(out)
    names = {out: temporary(out) for out in args.outs}
    for part in names.values():
        part.parent.mkdir(parents=True, exist_ok=True)
    try:
        code = execute(launched(args, redirect(args.command, names)), names.get(args.stdout))
        if code == 0:
            for out, part in names.items():
                put_in_place(part, out)
        return code
    finally:
        for part in names.values():
            remove(part)


def main(argv: list[str]) -> int:
    """Run the command line; return the exit code, 1 for a step that went wrong of itself."""
    try:
        return run_step(parse(argv))
    except StepError as error:
        print(f"step: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
