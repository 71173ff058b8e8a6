"""decode a data directory with one strategy: text, trace.json, config.yaml"""

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.cli.options import (
    add_data_argument,
    add_data_options,
    add_draft_options,
    add_jobs_option,
    add_model_option,
    add_out_option,
    add_run_options,
    add_sampling_options,
    add_speech_options,
    add_strategy_options,
    sampling_names,
    sampling_of,
    settle_jobs,
)
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.models.bases.names import SPEECH_MODEL

if TYPE_CHECKING:
    from speechmtp.types import Trace


@dataclass
class Decoded:
    """What `trace.json` says of each utterance by its id, and why the others have no text."""

    entries: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp decode`."""
    add_data_argument(parser, "Kaldi data directory")
    add_model_option(parser, SPEECH_MODEL)
    add_strategy_options(parser)
    add_out_option(parser, "folder for text, trace.json and config.yaml")
    parser.add_argument("--nj", type=int, default=1, metavar="N", help="processes that share the data (default 1)")
    parser.add_argument("--cmd", metavar="LAUNCHER", help="run the jobs through recipes/run.py or slurm.py")
    parser.add_argument("--shard", metavar="I/N", help=argparse.SUPPRESS)
    add_run_options(parser, None)
    add_jobs_option(parser)
    add_draft_options(parser)
    add_sampling_options(parser)
    add_speech_options(parser)
    add_data_options(parser)


def run(args: argparse.Namespace) -> int:
    """Decodes in this process, or in `--nj` jobs whose results are joined. Each utterance that cannot be heard is
    reported on stderr and in `trace.json`, the others go on, and the exit code is then 2 (0 for one of the jobs)."""
    from speechmtp.cli.checks import check_strategies, open_recogniser
    from speechmtp.config import read_yaml
    from speechmtp.data.kaldi import DataDir, read_data_dir
    from speechmtp.decoding.strategies import parse_strategy

    strategy = find_strategy(args) if args.strategy else None  # report a wrong one before anything is loaded
    sampling_of(args)
    if args.nj < 1:
        raise ConfigError(f"--nj {args.nj}: expected 1 or more")
    settle_jobs(args, args.nj)
    data = read_data_dir(args.data, args.root, need_text=False, allow_pipes=args.allow_pipes)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.nj > 1:
        decoded = _run_jobs(args, out)
        settings = read_yaml(out / "split" / "1" / "config.yaml")
        strategy, args.device = parse_strategy(str(settings["strategy"])), settings["device"]  # as prepared by the jobs
        _write_settings(out, args, strategy)
    else:
        recogniser = open_recogniser(args)
        [strategy] = check_strategies([find_strategy(args, recogniser)], recogniser.runner, with_ctc=recogniser.has_ctc)
        if args.shard:
            part, parts = (int(x) for x in args.shard.split("/"))
            data = DataDir(data.path, data.utterances[part - 1 :: parts])
        _write_settings(out, args, strategy)
        decoded = _decode(recogniser, data, strategy, args)
    _write(out, decoded, strategy)
    return 2 if decoded.failed and not args.shard else 0


def find_strategy(args: argparse.Namespace, recogniser: Any = None) -> Any:
    """The strategy given by --strategy, --depth and --theta; without --strategy the model's default one."""
    from speechmtp.decoding.strategies import make_strategy, parse_strategy

    strategy = parse_strategy(args.strategy) if args.strategy else recogniser.default_strategy
    given = {k: v for k in ("depth", "theta") if (v := getattr(args, k, None)) is not None}
    return make_strategy(strategy.name, strategy.given | given) if given else strategy


def _decode(recogniser: Any, data: Any, strategy: Any, args: argparse.Namespace) -> Decoded:
    """Decode the utterances of a data directory; those that cannot be heard are reported."""
    from speechmtp.cli.streams import report
    from speechmtp.errors import DataError
    from speechmtp.listening import noise_key_of

    ids = [u.id for u in data.utterances]
    found = recogniser.transcribe_many(
        [partial(u.load, recogniser.rate, args.allow_pipes) for u in data.utterances], recogniser.rate, strategy,
        args.batch_size, "return", progress=True, sampling=sampling_of(args),
        noise_keys=[noise_key_of(name) for name in ids], language=args.language, task=args.task,
        names=[f"{data.path}/{u.origin}: {u.id}" for u in data.utterances], jobs=args.jobs, threads=args.threads,
    )  # fmt: skip
    decoded = Decoded()
    for utterance, one in zip(data.utterances, found):
        if isinstance(one, DataError):
            decoded.failed[utterance.id] = _why(one, data.path, utterance)
            report(f"error: {decoded.failed[utterance.id]}")
            continue
        decoded.entries[utterance.id] = {
            "text": one.text, "tokens": list(one.tokens), "trace": _counts(one.trace),
            "audio_seconds": one.audio_seconds, "batch_seconds": one.seconds, "listen_seconds": one.listen_seconds,
        }  # fmt: skip
    return decoded


def _why(error: SpeechMTPError, folder: Path, utterance: Any) -> str:
    """The message of an utterance's error, with the file and line of the utterance and its id before it."""
    message = str(error)
    if message.startswith(f"{utterance.origin}: segment {utterance.id} "):
        return f"{folder}/{message}"
    place = f"{folder}/{utterance.origin}: {utterance.id}"
    return message if message.startswith(place) else f"{place}: {message}"


def _counts(trace: "Trace") -> dict[str, Any]:
    """The counts of a trace, without values of single tokens."""
    return {key: value for key, value in vars(trace).items() if key not in ("gaps", "logprobs")}


def _run_jobs(args: argparse.Namespace, out: Path) -> Decoded:
    """Run the same command as `--nj` jobs, each on its share of the utterances, join what they decoded, and report what
    they could not hear."""
    from speechmtp.cli.streams import report

    command = [sys.executable, "-m", "speechmtp.cli.main", "decode", args.data]
    for name in ("model", "strategy", "depth", "theta", "batch_size", "device", "dtype", "seed", "threads", "jobs",
                 "root", "draft_model", "language", *sampling_names()):  # fmt: skip
        if (value := getattr(args, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    command += [part for item in args.heads for part in ("--heads", item)]
    for name in ("ctc", "drafts", "task"):
        command += [f"--{name}", getattr(args, name)] * bool(getattr(args, name))
    command += ["--allow-pipes"] * args.allow_pipes + ["--allow-stale-heads"] * args.allow_stale_heads
    (out / "log").mkdir(exist_ok=True)
    folders = [out / "split" / str(job) for job in range(1, args.nj + 1)]
    for folder in folders:  # what an earlier run left must not stand for what a job did not write
        (folder / "trace.json").unlink(missing_ok=True)
    if args.cmd:
        full = [*shlex.split(args.cmd), f"JOB=1:{args.nj}", str(out / "log" / "decode.JOB.log"), *command,
                "--shard", f"JOB/{args.nj}", "--out", str(out / "split" / "JOB")]  # fmt: skip
        try:
            code = subprocess.run(full, check=False).returncode
        except OSError as error:
            raise ConfigError(f"--cmd {args.cmd}: {error.strerror or error}; give the path of the launcher") from error
        failed = [str(f) for f in folders if not (f / "trace.json").exists()] or [str(out / "log")] * bool(code)
    else:
        failed = _run_here(command, folders, out / "log", args.nj)
    if failed:
        raise SpeechMTPError(
            f"decode: {len(failed)} of {args.nj} jobs failed, see {out / 'log'}{_last_line(failed[0])}"
        )
    decoded = Decoded()
    for folder in folders:
        part = json.loads((folder / "trace.json").read_text())
        decoded.entries |= part["utterances"]
        decoded.failed |= part.get("failed", {})
    for why in decoded.failed.values():
        report(f"error: {why}")
    return decoded


def _run_here(command: list[str], folders: list[Path], logs: Path, jobs: int) -> list[str]:
    """Run the jobs in parallel and return the logs of those that failed; on an error the others are terminated."""
    running: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        for job, folder in enumerate(folders, 1):
            log = logs / f"decode.{job}.log"
            with log.open("w") as file:
                own = [*command, "--shard", f"{job}/{jobs}", "--out", str(folder)]
                running.append((subprocess.Popen(own, stdout=file, stderr=subprocess.STDOUT), log))
        return [str(log) for process, log in running if process.wait()]
    finally:
        for process, _ in running:
            process.terminate()


def _last_line(log: str) -> str:
    """The last line of a job's log, which says why it failed."""
    lines = Path(log).read_text().strip().splitlines() if Path(log).is_file() else []
    return f": {lines[-1]}" if lines else ""


def _write_settings(out: Path, args: argparse.Namespace, strategy: Any) -> None:
    """Write config.yaml: what was asked for."""
    from speechmtp.config import write_yaml

    names = ("model", "data", "batch_size", "device", "dtype", "seed", "threads", "jobs")
    settings = {"data_dir" if name == "data" else name: getattr(args, name) for name in names}
    settings |= {"heads": args.heads} if args.heads else {}
    more = ("ctc", "draft_model", "drafts", "language", "task")
    settings |= {key: value for key in more if (value := getattr(args, key))}
    settings |= {"sampling": found} if (found := sampling_of(args).described()) else {}
    write_yaml(out / "config.yaml", settings | {"strategy": strategy.label, "options": strategy.options})


def _write(out: Path, decoded: Decoded, strategy: Any) -> None:
    """Write trace.json, which has all that was computed, then text; print what there is."""
    from speechmtp.cli.streams import report
    from speechmtp.cli.warnings import warn_of
    from speechmtp.data.tables import write_bytes, write_table
    from speechmtp.text.lines import one_line
    from speechmtp.types import Trace, sum_traces

    entries, failed = decoded.entries, decoded.failed
    total = sum_traces(Trace(**entry["trace"]) for entry in entries.values())
    totals = _counts(total)
    totals |= {"tokens_per_call": total.tokens_per_call, "mean_acceptance_length": total.mean_acceptance_length}
    trace = {"totals": totals, "utterances": dict(sorted(entries.items()))}
    trace |= {"failed": dict(sorted(failed.items()))} if failed else {}
    write_bytes(out / "trace.json", (json.dumps(trace, indent=1) + "\n").encode())
    write_table(out / "text", {name: one_line(entry["text"]) for name, entry in entries.items()})
    shown = f", {totals['tokens_per_call']:.2f} tokens a call" if totals["tokens_per_call"] else ""
    warn_of({name: entry["trace"]["flags"] for name, entry in entries.items()}, "utterances")
    if failed:
        report(
            f"{len(failed)} of {len(entries) + len(failed)} utterances failed and have no line in {out / 'text'}; "
            f"`failed` in {out / 'trace.json'} says why"
        )
    print(f"{len(entries)} utterances with {strategy.label}{shown}: {out / 'text'}")
