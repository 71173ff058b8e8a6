"""choose thresholds and depths on a development set and store the strategies to compare"""

import argparse
import json
from pathlib import Path
from typing import Any

from speechmtp.cli.options import add_data_options, add_run_options, hear_all, open_recogniser

THETAS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp tune`."""
    parser.add_argument("model", metavar="MODEL", help="model folder or embedded model")
    parser.add_argument("data_dir", metavar="DEV_DIR", help="development data directory")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for tune.json")
    parser.add_argument("--conf", required=True, metavar="YAML", help="written: the strategies with their options")
    parser.add_argument("--loss", type=float, default=0.3, metavar="POINTS",
                        help="WER that a lossy strategy may cost on the development set (default 0.3)")  # fmt: skip
    parser.add_argument("--thetas", type=float, nargs="+", default=list(THETAS), metavar="T")
    add_run_options(parser)
    add_data_options(parser)


def run(args: argparse.Namespace) -> int:
    """Compares all candidates at batch size 1, keeps the best of each kind, writes both files."""
    from speechmtp.cli.comparison import run_comparison
    from speechmtp.config import write_yaml
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.decoding.strategies import make_strategy

    recogniser = open_recogniser(args)
    data = read_data_dir(args.data_dir, args.root, allow_pipes=args.allow_pipes)
    depth = recogniser.heads.depth if recogniser.heads is not None else 0
    depths = [d for d in (1, 3, 5, 7) if d < depth] + [depth] * (depth > 0)
    candidates = [make_strategy("ar", {}), make_strategy("ctc", {}), make_strategy("ctc-only", {})]
    candidates += [make_strategy("verify", {"depth": d}) for d in depths]
    candidates += [
        make_strategy("threshold", {"depth": depth, "theta": theta, "measure": measure})
        for measure in ("token", "product") for theta in args.thetas if depth
    ]  # fmt: skip
    heard, seconds = hear_all(recogniser, data, args.allow_pipes)
    rows = run_comparison(
        recogniser, heard, seconds, data.transcripts(), candidates, args.batch_size, args.seed, "tuning"
    ).rows
    chosen = _choose(rows, depths, args.loss)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tune.json").write_text(json.dumps(rows, indent=1) + "\n")
    labels = [make_strategy(row["strategy"], row["options"]).label for row in chosen]
    for d in sorted({3, depth} & set(depths)):
        labels.append(make_strategy("oracle", {"depth": d}).label)
    conf = Path(args.conf)
    conf.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(conf, {"chosen_on": Path(args.data_dir).name, "loss": args.loss, "strategies": labels})
    for row in chosen:
        calls = f", {row['tokens_per_call']:.2f} tokens a call" if row["tokens_per_call"] else ""
        print(f"{row['strategy']} {row['options']}: WER {row['wer']:.2f}{calls}")
    print(f"strategies: {conf}")
    return 0


def _choose(rows: list[dict[str, Any]], depths: list[int], loss: float) -> list[dict[str, Any]]:
    """Plain decoding, CTC rows, `verify` at depth 3, at the full depth and at the fastest one, and of each kind
    of `threshold` the one with the most tokens a call among those that cost at most `loss` points of WER."""
    plain = next(row for row in rows if row["strategy"] == "ar")
    verify = [row for row in rows if row["strategy"] == "verify"]
    kept = [plain, *(row for row in rows if row["strategy"] in ("ctc", "ctc-only"))]
    wanted = {3, max(depths, default=0)}
    if verify:
        wanted.add(min(verify, key=lambda row: row["seconds"])["options"]["depth"])
    kept += [row for row in verify if row["options"]["depth"] in wanted]
    for measure in ("token", "product"):
        group = [r for r in rows if r["strategy"] == "threshold" and r["options"]["measure"] == measure]
        allowed = [r for r in group if r["wer"] <= plain["wer"] + loss] or sorted(group, key=lambda r: r["wer"])[:1]
        if allowed:
            kept.append(max(allowed, key=lambda r: (r["tokens_per_call"] or 0.0, -r["wer"])))
    order = ("ar", "verify", "threshold", "ctc", "ctc-only")
    return sorted(kept, key=lambda row: order.index(row["strategy"]))
