"""Live recognition beside Moonshine's own live transcriber: the same audio in the same pieces on the same clock.

This project's streams are measured as `speechmtp latency` does; the other, in a process of its own, is fed the same
pieces, with each step as its update interval. Its words count as committed once their line is complete, and as shown
from the update on after which they stay. Delays and word errors are of one definition. Times are processor seconds
on one thread; the other's process has one core.

    pip install --no-deps --target peers moonshine-voice==0.0.73 onnxruntime flatbuffers sounddevice requests urllib3 \\
        certifi charset-normalizer platformdirs
    PEERS=peers python benchmarks/live_peers.py DATA_DIR --step 0.5,1.0 --conf conf/live.yaml --out live_peers
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sides import HERE, Worker

from speechmtp.config import load_config, to_dict
from speechmtp.errors import SpeechMTPError
from speechmtp.evaluation.latency import FeedConfig, Latency, LiveSet, open_live_set, run_latency, said_figures
from speechmtp.evaluation.latency_choice import stream_grid
from speechmtp.evaluation.latency_files import write_latency
from speechmtp.evaluation.latency_tables import latency_tables
from speechmtp.evaluation.live_delays import SaidLive, Shown, last_of_each_time
from speechmtp.evaluation.settings import EvaluationSettings
from speechmtp.progress import track
from speechmtp.streaming.config import StreamConfig


def said_by(answer: Mapping[str, Any]) -> SaidLive:
    """What a side said of one recording."""
    shown = last_of_each_time([Shown(*one) for one in answer["shown"]])
    words, ends = [tuple(one) for one in answer["words"]], [tuple(one) for one in answer["ends"]]
    return SaidLive(answer["text"], tuple(words), shown, tuple(ends))


def peer_rows(
    worker: Worker, live: LiveSet, latency: Latency, intervals: Sequence[float], about: str, feed: FeedConfig
) -> list[dict[str, Any]]:
    """A row for each update interval; the intervals take turns."""
    names = sorted(live.audio)
    said: list[dict[str, SaidLive]] = [{} for _ in intervals]
    seconds, updates = [0.0] * len(intervals), [0] * len(intervals)
    worker.ask(name=names[0], interval=intervals[0])  # the first call is slower
    for turn, name in enumerate(track(names, about)):
        for place in range(len(intervals)):
            number = (place + turn) % len(intervals)
            answer = worker.ask(name=name, interval=intervals[number])
            said[number][name] = said_by(answer)
            seconds[number] += answer["seconds"]
            updates[number] += answer["updates"]
    fed = live.seconds + len(names) * feed.silence
    return [
        {"label": f"{about}, update {interval:g} s", "kind": "peer", "step": interval,
         **said_figures(live, said[number], latency.references, latency.facts["seed"]),
         "passes": updates[number], "seconds": seconds[number], "fed_seconds": fed, "rtf": seconds[number] / fed}
        for number, interval in enumerate(intervals)
    ]  # fmt: skip


def compare(args: argparse.Namespace) -> None:
    """Measure, print the tables, write the files."""
    torch.set_num_threads(1)
    feed = FeedConfig(args.piece_ms, args.silence)
    steps = [float(part) for part in args.step.split(",")]
    configs = stream_grid(load_config(StreamConfig, args.conf), steps)
    live = open_live_set(EvaluationSettings(args.data, args.model, "cpu", root=args.root))
    names = sorted(live.audio)[: args.limit or None]
    live.audio = {name: live.audio[name] for name in names}
    live.transcripts = {name: live.transcripts[name] for name in names}
    latency = run_latency(live, configs, feed)
    worker = Worker(HERE.parent, "live_peers_side.py", cores=sorted(os.sched_getaffinity(0))[-1:])
    try:
        worker.tell(data=args.data, root=args.root, piece_ms=feed.piece_ms, silence=feed.silence)
        answer = worker.hear("loading")
        if "missing" in answer:
            print(f"left out: moonshine-voice: {answer['missing']}", file=sys.stderr)
        else:
            latency.rows.extend(peer_rows(worker, live, latency, steps, answer["about"], feed))
    finally:
        worker.close()
    print(latency_tables(latency.rows, latency.facts), end="")
    if args.out:
        streams = {label: to_dict(config) for label, config in configs.items()}
        settings = {"data": args.data, "model": args.model, "feed": to_dict(feed), "streams": streams}
        write_latency(latency, settings, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA_DIR", help="Kaldi data directory")
    parser.add_argument("--model", default="default")
    parser.add_argument("--step", default="0.5", metavar="S,...", help="steps, and update intervals of the other")
    parser.add_argument("--conf", metavar="YAML", help="keys of StreamConfig")
    parser.add_argument("--piece-ms", type=int, default=20, metavar="MS")
    parser.add_argument("--silence", type=float, default=1.0, metavar="S", help="seconds behind each utterance")
    parser.add_argument("--root", default=os.environ.get("SPEECHMTP_CORPORA"), help="root of relative audio paths")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the first N recordings (default: all)")
    parser.add_argument("--out", default="", metavar="DIR", help="folder for latency.json, .md, .png and config.yaml")
    try:
        compare(parser.parse_args(argv))
    except SpeechMTPError as error:
        print(f"live_peers: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
