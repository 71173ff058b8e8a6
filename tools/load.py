"""How a live server does under load: paced streams in processes of their own, one clock, delays as percentiles.

Audio is sent when it is due, whatever the server does, so that a slow server cannot slow the load down. Each utterance
ends with a commit, whose answer is waited for. The figures are void if the load was late itself.

    python tools/load.py words DATA WORDS.json                  # once: when the words of the references are said
    python tools/load.py expect DATA EXPECTED.json --url URL    # once: what one stream alone says
    python tools/load.py run DATA --url URL --streams 4 --minutes 10 --words WORDS.json --expected EXPECTED.json \\
        --pid PID --out load.json
    python tools/load.py run DATA --streams 50 --minutes 1      # without --url: the front alone, with a stub engine
    python tools/load.py idle --streams 500 --minutes 0.5

First token: the first text behind the start of the first word. Emission: a committed word behind its end. Shown: the
same for words on show, from when they stay. Finalisation: the answer behind its commit (with --turns vad behind the end
of the last word, which has --silence in it); fast: that of --fast streams. Heard: how far the recogniser is behind.
Lateness: that of the load.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from load_figures import Measured, lines, measured
from load_streams import Plan
from load_watch import Levels, Watch, metrics, quantile

from speechmtp.data.kaldi import read_data_dir
from speechmtp.errors import SpeechMTPError
from speechmtp.server.client import address
from speechmtp.text.normalize import get_normalizer
from speechmtp.words.word import Word

TOOLS = Path(__file__).resolve().parent
PER_PROCESS = 50
LOOP_DELAY = "speechmtp_event_loop_delay_seconds"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the verbs; 1 if the figures are void, or if a final was lost or wrong."""
    args = _parser().parse_args(arguments)
    try:
        if args.verb == "words":
            return write_words(args)
        if args.verb == "serve-stub":
            return serve_stub(args)
        return load(args)
    except SpeechMTPError as error:
        print(f"load: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("run", "expect", "idle"):
        sub = verbs.add_parser(verb)
        if verb != "idle":
            sub.add_argument("data", help="Kaldi data directory")
        if verb == "expect":
            sub.add_argument("expected", help="JSON file to be written: what each utterance says")
        sub.add_argument("--root", help="root of relative audio paths (default: SPEECHMTP_CORPORA)")
        sub.add_argument("--url", help="of the server; default: one with a stub engine is started here")
        sub.add_argument("--token", default="")
        sub.add_argument("--streams", type=int, default=1)
        sub.add_argument("--minutes", type=float, default=1.0)
        sub.add_argument("--first", type=int, default=0, help="utterances that are taken (default: all)")
        sub.add_argument("--piece", type=int, default=40, help="milliseconds sent at a time")
        sub.add_argument("--spread", type=float, default=2.0, help="seconds within which the streams begin")
        sub.add_argument("--jitter", type=float, default=0.0, help="milliseconds by which a piece may come late")
        sub.add_argument("--turns", choices=("commit", "vad"), default="commit")
        sub.add_argument("--silence", type=float, default=0.7, help="seconds that end a segment, with --turns vad")
        sub.add_argument("--conversation", action="store_true", help="each utterance is followed by as much silence")
        sub.add_argument("--aborts", type=float, default=0.0, help="chance that a client goes away within a minute")
        sub.add_argument("--fast", type=int, default=0,
                         help="streams that send an utterance at once when the one before is answered")  # fmt: skip
        sub.add_argument("--seed", type=int, default=1)
        sub.add_argument("--words", help="JSON file of the references' words with times")
        sub.add_argument("--expected", dest="expected_file", help="JSON file of what each utterance says alone")
        sub.add_argument("--normalizer", default="whisper-en", help="for the comparison of words")
        sub.add_argument("--pid", type=int, help="of the server, whose memory, descriptors and time are watched")
        sub.add_argument("--out", help="JSON file of all figures")
    sub = verbs.add_parser("words", help="align the references with a model's CTC head")
    sub.add_argument("data")
    sub.add_argument("out")
    sub.add_argument("--root")
    sub.add_argument("--model", default="default")
    sub = verbs.add_parser("serve-stub", help="a server with a stub engine, on a free port that is printed")
    sub.add_argument("--streams", type=int, default=50)
    return parser


def load(args: argparse.Namespace) -> int:
    """Offer the load, print the figures and write them."""
    with ExitStack() as stack:
        stub = args.url is None
        if stub:
            args.url, args.pid = stack.enter_context(_Stub(args.streams)).place
        if args.verb == "expect":
            seconds = _seconds(args)
            args.streams, args.seed, args.minutes = 1, 0, (seconds + 10) / 60
        base = address(args.url).replace("ws", "http", 1).partition("/v1/")[0]
        before, began = metrics(base, args.token), os.getloadavg()
        watch = stack.enter_context(Watch(args.pid)) if args.pid else None
        levels = stack.enter_context(Levels(base, args.token))
        records = offer(args)
        after = metrics(base, args.token)
    found = measured(
        records, _turns(args), _read(args.expected_file), _words(args.words), get_normalizer(args.normalizer),
        stub,
    )  # fmt: skip
    report = found.figures() | {
        "machine": machine(began), "options": {key: value for key, value in vars(args).items() if key != "token"},
        "levels": levels.row(),
        "processes": watch.rows() if watch else [],
        "event_loop_delay_p99": quantile(before, after, LOOP_DELAY, 0.99),
    }  # fmt: skip
    for line in [*lines(report), *_lines_of_server(report)]:
        print(line)
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.verb == "expect":
        _write_expected(args, found)
    return int(found.void or found.counts["lost"] > 0 or found.counts["wrong"] > 0)


def _write_expected(args: argparse.Namespace, found: Measured) -> None:
    Path(args.expected).write_text(json.dumps(found.texts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{args.expected}: {len(found.texts)} utterances")


def _lines_of_server(report: dict[str, Any]) -> list[str]:
    """What the server used, as text."""
    found = []
    for row in report["processes"]:
        name = "front" if row["front"] else f"child {row['pid']}"
        growth = "" if row["rss_mb_per_minute"] is None else f", {row['rss_mb_per_minute']:+.2f} MB a minute"
        first, last, most = row["rss_mb"]
        found.append(
            f"{name}: {100 * (row['cpu'] or 0):.1f} % of a core, memory {first} to {last} MB (most {most}{growth}), "
            f"descriptors {row['descriptors']}, threads {row['threads']}"
        )
    if report["event_loop_delay_p99"] is not None:
        found.append(f"event-loop delay of the front: 99 % at most {1000 * report['event_loop_delay_p99']:g} ms")
    if report["levels"]:
        load, grown, full = (report["levels"][name] for name in ("load", "grown", "full"))
        found.append(f"load {load:.2f}, steps grown {100 * grown:.0f} % of the time, full {100 * full:.0f} %")
    facts = report["machine"]
    return [*found, f"{facts['processor']}, {facts['cores']} cores, load average {facts['load_average']}"]


def offer(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all streams, at most fifty a process; their records."""
    with tempfile.TemporaryDirectory(prefix="load") as folder:
        plans = [
            Plan(
                url=address(args.url), data=getattr(args, "data", ""), seconds=60 * args.minutes,
                numbers=list(range(first, min(first + PER_PROCESS, args.streams))),
                out=str(Path(folder) / f"{first}.json"), root=args.root, token=args.token, seed=args.seed,
                first=args.first, piece=args.piece, jitter=args.jitter / 1000, turns=_turns(args),
                silence=args.silence, spread=args.spread, conversation=args.conversation, aborts=args.aborts,
                fast=args.fast, streams=args.streams,
            ) for first in range(0, args.streams, PER_PROCESS)
        ]  # fmt: skip
        running = [_begun(plan) for plan in plans]
        try:
            for process in running:
                if not process.stdout or process.stdout.readline() != "ready\n":
                    raise SpeechMTPError("load: a process could not read the audio, expected `ready`; see above")
            begin = time.monotonic() + 0.5
            for process in running:
                assert process.stdin is not None
                process.stdin.write(f"{begin}\n")
                process.stdin.flush()
            for process in running:
                if process.wait():
                    raise SpeechMTPError("load: a process failed, expected its records; see above")
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
        return [record for plan in plans for record in json.loads(Path(plan.out).read_text(encoding="utf-8"))]


def _begun(plan: Plan) -> "subprocess.Popen[str]":
    """A process with its plan."""
    process = subprocess.Popen(
        [sys.executable, str(TOOLS / "load_streams.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(plan)) + "\n")
    process.stdin.flush()
    return process


def _turns(args: argparse.Namespace) -> str:
    return "none" if args.verb == "idle" else str(args.turns)


def _seconds(args: argparse.Namespace) -> float:
    """How long all utterances take once, with their pauses."""
    from load_streams import PAUSE

    found = read_data_dir(args.data, args.root, need_text=False).utterances[: args.first or None]
    return sum((one.duration or len(one.load()) / 16000) + PAUSE + 0.2 for one in found)


def _read(path: str | None) -> dict[str, Any]:
    return dict(json.loads(Path(path).read_text(encoding="utf-8"))) if path else {}


def _words(path: str | None) -> dict[str, list[Word]]:
    """Utterance -> the words of its reference."""
    return {name: [Word(*word) for word in words] for name, words in _read(path).items()}


def machine(load_before: Sequence[float]) -> dict[str, Any]:
    """Where this ran: processor, cores, versions, and the load average before and after."""
    names = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in names.splitlines() if line.startswith("model name")]
    packages = {name: version(name) for name in ("speechmtp", "websockets", "numpy", "torch")}
    return {
        "processor": models[0] if models else platform.machine(), "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(), "system": platform.platform(), "packages": packages,
        "load_average": [round(load_before[0], 2), round(os.getloadavg()[0], 2)],
    }  # fmt: skip


def write_words(args: argparse.Namespace) -> int:
    """Align the references of a data directory: utterance -> [text, start, end]."""
    import speechmtp
    from speechmtp.evaluation.latency import reference_words

    model = speechmtp.load(args.model)
    found = {}
    for one in read_data_dir(args.data, args.root).utterances:
        samples = one.load(model.rate)
        parts: list[Any] = [(request, None) for request in model.listen_parts(samples, one.id)]
        words = reference_words(model, parts, one.text or "")
        found[one.id] = [(word.text, word.start, word.end) for word in words]
    Path(args.out).write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")
    known = sum(word[2] is not None for words in found.values() for word in words)
    print(f"{args.out}: {known} of {sum(map(len, found.values()))} words of {len(found)} utterances have times")
    return 0


def serve_stub(args: argparse.Namespace) -> int:
    """Serve with a stub engine and limits that let this many clients of one address in."""
    from speechmtp.server.app import run_server
    from speechmtp.server.config import Limits, ServerConfig

    most = args.streams + 64
    config = ServerConfig(
        port=0, engine=[sys.executable, str(TOOLS / "stub_engine.py")], sessions=most, workers=1,
        limits=Limits(connections=most, connections_address=most),
    )  # fmt: skip
    return run_server(config, lambda line: print(line, flush=True))


class _Stub:
    """A server with a stub engine in a process of its own; `place` is its address and process id."""

    def __init__(self, streams: int) -> None:
        command = [sys.executable, str(TOOLS / "load.py"), "serve-stub", "--streams", str(streams)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "_Stub":
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        urls = [word.rstrip("/.,;") for word in line.split() if "://" in word]
        if not urls:
            self._process.kill()
            raise SpeechMTPError(f"load: the server says {line.strip()!r}, expected its address; see above")
        self.place = urls[0], self._process.pid
        return self

    def __exit__(self, *error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()


if __name__ == "__main__":
    sys.exit(main())
