"""decode a data directory with one strategy: text, trace.json, config.yaml"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from speechmtp.cli.options import (
    add_data_options,
    add_draft_options,
    add_run_options,
    add_sampling_options,
    batches,
    check_strategies,
    hear_all,
    open_recogniser,
    sampling_names,
    sampling_of,
    stream_of,
)
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.types import Trace, sum_traces


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp decode`."""
    parser.add_argument("model", metavar="MODEL", help="model folder or embedded model (default, an4)")
    parser.add_argument("data_dir", metavar="DATA_DIR", help="Kaldi data directory")
    parser.add_argument("--strategy", default="ctc", metavar="NAME", help="name or name:option=value,... (default ctc)")
    parser.add_argument("--depth", help="the strategy's depth")
    parser.add_argument("--theta", help="the strategy's threshold")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for text, trace.json and config.yaml")
    parser.add_argument("--nj", type=int, default=1, metavar="N", help="parallel jobs (default 1)")
    parser.add_argument("--cmd", metavar="LAUNCHER", help="run the jobs through recipes/run.py or slurm.py")
    parser.add_argument("--shard", metavar="I/N", help=argparse.SUPPRESS)
    add_run_options(parser)
    add_draft_options(parser)
    add_sampling_options(parser)
    add_data_options(parser)


def run(args: argparse.Namespace) -> int:
    """Decodes here, or in `--nj` jobs whose results are joined."""
    from speechmtp.config import read_yaml
    from speechmtp.data.kaldi import DataDir, read_data_dir
    from speechmtp.decoding.strategies import parse_strategy

    strategy = chosen_strategy(args)
    sampling_of(args)
    if args.nj < 1:
        raise ConfigError(f"--nj {args.nj}: expected 1 or more")
    data = read_data_dir(args.data_dir, args.root, need_text=False, allow_pipes=args.allow_pipes)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.nj > 1:
        entries = _run_jobs(args, out)
        strategy = parse_strategy(str(read_yaml(out / "split" / "1" / "config.yaml")["strategy"]))  # fitted
    else:
        recogniser = open_recogniser(args)
        [strategy] = check_strategies([strategy], recogniser.runner)
        if args.shard:
            part, parts = (int(x) for x in args.shard.split("/"))
            data = DataDir(data.path, data.utterances[part - 1 :: parts])
        entries = _decode(recogniser, data, strategy, args)
    _write(out, entries, args, strategy)
    return 0


def chosen_strategy(args: argparse.Namespace) -> Any:
    """The strategy of --strategy, --depth and --theta."""
    from speechmtp.decoding.strategies import make_strategy, parse_strategy

    strategy = parse_strategy(args.strategy)
    given = {k: v for k in ("depth", "theta") if (v := getattr(args, k, None)) is not None}
    return make_strategy(strategy.name, strategy.given | given) if given else strategy


def _decode(recogniser: Any, data: Any, strategy: Any, args: argparse.Namespace) -> dict[str, Any]:
    heard, _ = hear_all(recogniser, data, args.allow_pipes)
    entries: dict[str, Any] = {}
    sampling = sampling_of(args)
    for group in batches(list(heard), heard, args.batch_size):
        rows, streams = [heard[n] for n in group], [stream_of(n) for n in group]
        for name, result in zip(group, recogniser.decode(rows, strategy, sampling=sampling, streams=streams)):
            trace = {k: v for k, v in vars(result.trace).items() if k != "gaps"}
            entries[name] = {"text": result.text, "tokens": list(result.tokens), "trace": trace,
                             "audio_seconds": heard[name].audio_seconds, "batch_seconds": result.seconds,
                             "hear_seconds": heard[name].seconds}  # fmt: skip
    return entries


def _run_jobs(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The same command once a job, each on its share of the utterances."""
    command = [sys.executable, "-m", "speechmtp.cli.main", "decode", args.model, args.data_dir]
    for name in ("strategy", "depth", "theta", "batch_size", "device", "dtype", "seed", "root", "draft_model",
                 *sampling_names()):  # fmt: skip
        if (value := getattr(args, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    command += ["--threads", str(args.threads or max(1, (os.cpu_count() or 1) // args.nj))]
    command += [part for item in args.heads for part in ("--heads", item)]
    command += ["--ctc", args.ctc] * bool(args.ctc)
    command += ["--allow-pipes"] * args.allow_pipes + ["--allow-stale-heads"] * args.allow_stale_heads
    (out / "log").mkdir(exist_ok=True)
    folders = [out / "split" / str(job) for job in range(1, args.nj + 1)]
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
    entries: dict[str, Any] = {}
    for folder in folders:
        entries |= json.loads((folder / "trace.json").read_text())["utterances"]
    return entries


def _run_here(command: list[str], folders: list[Path], logs: Path, jobs: int) -> list[str]:
    """Run the jobs side by side; the logs of those that failed. None outlives this call."""
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
    """The end of a job's log, which says why it failed."""
    lines = Path(log).read_text().strip().splitlines() if Path(log).is_file() else []
    return f": {lines[-1]}" if lines else ""


def _write(out: Path, entries: dict[str, Any], args: argparse.Namespace, strategy: Any) -> None:
    from speechmtp.config import write_yaml
    from speechmtp.data.kaldi import write_table

    write_table(out / "text", {name: entry["text"] for name, entry in entries.items()})
    total = sum_traces(Trace(**entry["trace"]) for entry in entries.values())
    totals = {k: v for k, v in vars(total).items() if k != "gaps"}
    totals |= {"tokens_per_call": total.tokens_per_call, "mean_acceptance_length": total.mean_acceptance_length}
    trace = {"totals": totals, "utterances": dict(sorted(entries.items()))}
    (out / "trace.json").write_text(json.dumps(trace, indent=1) + "\n")
    kept = ("model", "data_dir", "batch_size", "device", "dtype", "seed", "threads")
    settings = {key: getattr(args, key) for key in kept}
    settings |= {"heads": args.heads} if args.heads else {}
    settings |= {"draft_model": args.draft_model} if args.draft_model else {}
    settings |= {"sampling": found} if (found := sampling_of(args).described()) else {}
    write_yaml(out / "config.yaml", settings | {"strategy": strategy.label, "options": strategy.options})
    shown = f", {totals['tokens_per_call']:.2f} tokens a call" if totals["tokens_per_call"] else ""
    empty, again = ([n for n, e in entries.items() if flag in e["trace"]["flags"]] for flag in ("empty", "repetition"))
    for names, what in ((again, "end in a repetition"), (empty, "have no text")):
        if names:
            print(f"speechmtp: warning: {len(names)} utterances {what}: {', '.join(names[:5])}", file=sys.stderr)
    cut = [name for name, entry in entries.items() if not entry["trace"]["finished"]]
    if cut:
        print(
            f"speechmtp: warning: {len(cut)} utterances stopped at the limit of tokens: {', '.join(cut[:5])}",
            file=sys.stderr,
        )
    print(f"{len(entries)} utterances with {strategy.label}{shown}: {out / 'text'}")
