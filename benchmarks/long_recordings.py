"""What cutting costs in words: utterances joined to long recordings, against the same utterances apart.

The utterances of each data directory are joined in the order of its text, `--by` of them to a recording, without pauses
between them. Shown are the pooled word error rates of both, with `--live` that of the same recordings fed to a stream,
the lengths of the parts, and the CPU time of the network that finds the pauses.

    python benchmarks/long_recordings.py DATA_DIR... [--speakers FILE] [--by 10] [--model default] [--shortest S]
        [--longest S] [--live conf/live.yaml]
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.audio.cut import LONGEST, SHORTEST, cut_points, speech
from speechmtp.config import load_config
from speechmtp.data.kaldi import Utterance, read_data_dir
from speechmtp.scoring.tables import render_markdown
from speechmtp.scoring.wer import Report, score
from speechmtp.streaming.config import StreamConfig
from speechmtp.text.normalize import get_normalizer


def joined(utterances: Sequence[Utterance], rate: int, by: int) -> dict[str, tuple[list[np.ndarray], str]]:
    """Samples of the utterances of each recording, and its words."""
    groups = {utterances[i].id: utterances[i : i + by] for i in range(0, len(utterances), by)}
    return {
        name: ([one.load(rate) for one in group], " ".join(one.text for one in group)) for name, group in groups.items()
    }


def word_errors(
    recogniser: Recogniser, recordings: dict[str, tuple[list[np.ndarray], str]], strategy: str, rows: int
) -> Report:
    """Score recordings, each the texts of its pieces joined."""
    pieces = [piece for group, _ in recordings.values() for piece in group]
    texts = iter(str(one) for one in recogniser.transcribe_many(pieces, recogniser.rate, strategy, rows))
    said = {name: " ".join(next(texts) for _ in group) for name, (group, _) in recordings.items()}
    return score({name: text for name, (_, text) in recordings.items()}, said, get_normalizer("whisper-en"))


def live_errors(
    recogniser: Recogniser, recordings: dict[str, tuple[list[np.ndarray], str]], config: StreamConfig
) -> Report:
    """Score recordings that are fed to a stream, a second at a time."""
    said = {}
    for name, (group, _) in recordings.items():
        stream, audio = recogniser.create_stream(config), np.concatenate(group)
        for start in range(0, len(audio), recogniser.rate):
            stream.feed(audio[start : start + recogniser.rate])
        stream.finish()
        said[name] = str(stream.result())
    return score({name: text for name, (_, text) in recordings.items()}, said, get_normalizer("whisper-en"))


def measured(recogniser: Recogniser, utterances: Sequence[Utterance], options: argparse.Namespace) -> dict[str, Any]:
    """The row of one data directory."""
    apart = joined(utterances, recogniser.rate, options.by)
    parts, lengths, cpu, heard = {}, [], [], 0.0
    for name, (group, text) in apart.items():
        audio = np.concatenate(group)
        spans = cut_points(audio, recogniser.rate, options.shortest, options.longest)
        parts[name] = [audio[start:end] for start, end in spans], text
        lengths += [(end - start) / recogniser.rate for start, end in spans]
        began = time.process_time()
        speech(audio, recogniser.rate)
        cpu.append(time.process_time() - began)
        heard += len(audio) / recogniser.rate
    reports = [word_errors(recogniser, one, options.strategy, options.rows) for one in (apart, parts)]
    alone, together = (report.wer or 0.0 for report in reports)
    live = live_errors(recogniser, apart, load_config(StreamConfig, options.live)).wer if options.live else None
    return {
        "recordings": len(apart), "minutes": heard / 60, "words": reports[0].counts.ref_words,
        "WER apart": alone, "WER parts": together, "relative %": 100 * (together / alone - 1) if alone else 0.0,
        **({} if live is None else {"WER live": live}), "parts": len(lengths),
        "shortest s": min(lengths), "mean s": float(np.mean(lengths)), "longest s": max(lengths),
        "network ms a second": 1000 * sum(cpu) / heard,
    }  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="Kaldi data directories")
    parser.add_argument("--root", help="root of relative audio paths (default: SPEECHMTP_CORPORA)")
    parser.add_argument("--speakers", type=Path, help="only these speakers, one a line")
    parser.add_argument("--by", type=int, default=10, help="utterances of a recording")
    parser.add_argument("--model", default="default", help="model folder or name")
    parser.add_argument("--strategy", default="", help="default: the model's")
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--shortest", type=float, default=SHORTEST, help="seconds of a part that is not the last")
    parser.add_argument("--longest", type=float, default=LONGEST, help="seconds of a part")
    parser.add_argument("--live", metavar="YAML", help="hear them live too, by these keys of StreamConfig")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recogniser = speechmtp.load(options.model, "cpu")
    options.strategy = options.strategy or recogniser.default_strategy.label
    speakers = set(options.speakers.read_text().split()) if options.speakers else None
    rows = []
    for folder in options.data:
        utterances = read_data_dir(folder, options.root).utterances
        chosen = [one for one in utterances if speakers is None or one.speaker in speakers]
        rows.append({"data": "/".join(Path(folder).parts[-2:]), **measured(recogniser, chosen, options)})
    print(render_markdown(rows, list(rows[0])))
    print(f"{options.strategy}, recordings of {options.by} utterances, parts of {options.shortest:g} to "
          f"{options.longest:g} s, network on one thread")  # fmt: skip


if __name__ == "__main__":
    main()
