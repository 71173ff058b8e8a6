"""What do words cost that are said at longer steps, as an engine under load takes them?

Every recording is fed to a stream with passes every half second, one with passes every second, one that is decoded a
whole segment at a time, and one whose step changes at random between the three from pass to pass, as that of an engine
does that is crowded, falls behind and recovers. Shown are word error rates, and how much worse each is than the first,
with the interval of the paired bootstrap (by speaker, if there are enough).

    python benchmarks/live_steps.py DATA_DIR... [--root ROOT] [--every N] [--model default] [--seed 0]
"""

import argparse
import math
import random
from collections.abc import Callable

import numpy as np
import torch

from speechmtp.api import Recogniser, load
from speechmtp.data.kaldi import read_data_dir
from speechmtp.progress import track
from speechmtp.scoring.intervals import group_units, paired_bootstrap
from speechmtp.scoring.tables import Column, render_markdown
from speechmtp.scoring.wer import score
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.passes import run_passes, strategy_of
from speechmtp.streaming.session import Session
from speechmtp.text.normalize import get_normalizer

STEPS = (0.5, 1.0, math.inf)
SILENCE = 1.0  # seconds behind each recording


def heard(recogniser: Recogniser, audio: np.ndarray, step: Callable[[], float]) -> tuple[str, int]:
    """The text of a recording, and the passes that it took, with a new step behind each."""
    session = Session(recogniser, StreamConfig(words=False))
    strategy = strategy_of(recogniser, "")
    session.feed(np.concatenate([audio, np.zeros(round(SILENCE * recogniser.rate), np.float32)]))
    session.finish()
    session.step = step()
    while (due := session.next_pass()) is not None:
        run_passes(recogniser, strategy, [(session, due)])
        session.step = step()
    return session.result().text, session.passes


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="Kaldi data directories with text")
    parser.add_argument("--root", help="root of relative audio paths (default: SPEECHMTP_CORPORA)")
    parser.add_argument("--every", type=int, default=1, help="take each n-th recording")
    parser.add_argument("--model", default="default", help="model folder or name")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recogniser, draw = load(args.model, "cpu"), random.Random(args.seed)
    steps: dict[str, Callable[[], float]] = {
        "0.5 s": lambda: STEPS[0],
        "1 s": lambda: STEPS[1],
        "whole segments": lambda: STEPS[2],
        "changing": lambda: draw.choice(STEPS),
    }
    rows = []
    for data in args.data:
        utterances = read_data_dir(data, args.root).utterances[:: args.every]
        texts: dict[str, dict[str, str]] = {name: {} for name in steps}
        passes, references, speakers = dict.fromkeys(steps, 0), dict[str, str](), dict[str, str]()
        for one in track(utterances, data):
            audio, references[one.id] = one.load(recogniser.rate, False), one.text or ""
            speakers[one.id] = one.speaker or one.id
            for name, step in steps.items():
                texts[name][one.id], count = heard(recogniser, audio, step)
                passes[name] += count
        normalise, errors = get_normalizer(recogniser.bundle.normalizer), dict[str, list[int]]()
        ids, words = sorted(references), list[int]()
        for name, said in texts.items():
            report = score(references, said, normalise)
            by_id = {each.utterance: each.counts for each in report.utterances}
            errors[name], words = [by_id[i].errors for i in ids], [by_id[i].ref_words for i in ids]
            first = next(iter(errors.values()))
            worse = paired_bootstrap(errors[name], first, words, args.seed, unit=group_units(ids, speakers))
            rows.append({
                "data": data, "step": name, "passes": passes[name] / len(ids), "wer": report.wer, "delta": worse.delta,
                "interval": f"{worse.low:+.2f} to {worse.high:+.2f}", "unit": f"{worse.units} {worse.unit}s",
            })  # fmt: skip
    columns = [
        Column("data"), Column("step"), Column("passes", "passes a recording", 1), Column("wer", "WER %", 2),
        Column("delta", "worse by", 2), Column("interval", "95 %"), Column("unit", "over"),
    ]  # fmt: skip
    print(render_markdown(rows, columns))


if __name__ == "__main__":
    main()
