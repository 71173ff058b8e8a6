"""strategies side by side in one run: error rates, trunk calls, tokens per call, times"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechmtp.cli.options import add_data_options, add_run_options, check_strategies, hear_all, open_recogniser
from speechmtp.errors import ConfigError, SpeechMTPError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp compare`."""
    parser.add_argument("model", metavar="MODEL", help="model folder or embedded model (default, an4)")
    parser.add_argument("data_dir", metavar="DATA_DIR", help="Kaldi data directory with text")
    parser.add_argument("--strategies", default="ar,verify,threshold,ctc,ctc-only", metavar="LIST",
                        help="ar,verify:depth=3,... or @FILE with a YAML list `strategies`")  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for compare.json, .md, .png and texts")
    add_run_options(parser)
    add_data_options(parser)


def run(args: argparse.Namespace) -> int:
    """Compares, prints the table, writes the files; 1 if an exact strategy differs beyond near-ties."""
    from speechmtp.cli.comparison import run_comparison
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.scoring.tables import render_markdown, render_text

    strategies = read_strategies(args.strategies)
    recogniser = open_recogniser(args)
    strategies = check_strategies(strategies, recogniser, with_references=True)
    data = read_data_dir(args.data_dir, args.root, allow_pipes=args.allow_pipes)
    heard, seconds = hear_all(recogniser, data, args.allow_pipes)
    done = run_comparison(recogniser, heard, seconds, data.transcripts(), strategies, args.batch_size, args.seed)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.json").write_text(json.dumps(done.rows, indent=1) + "\n")
    columns = table_columns()
    note = footnote(done.rows)
    (out / "compare.md").write_text(render_markdown(table_rows(done.rows), columns) + f"\n{note}\n", encoding="utf-8")
    print(render_text(table_rows(done.rows), columns) + "\n" + note)
    for label, texts in done.texts.items():
        folder = out / "text" / label.replace(":", "_").replace(",", "_")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text").write_text("".join(f"{n} {t}".rstrip() + "\n" for n, t in sorted(texts.items())))
    _plot(done.rows, out / "compare.png")
    return 1 if any(row["differences"] for row in done.rows) else 0


def read_strategies(text: str) -> list[Any]:
    """Strategies from a command-line list or, behind @, the list `strategies` of a YAML file."""
    from speechmtp.config import read_yaml
    from speechmtp.decoding.strategies import parse_strategies, parse_strategy

    if not text.startswith("@"):
        return parse_strategies(text)
    listed = read_yaml(text[1:]).get("strategies")
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{text[1:]}: a list `strategies` is expected")
    return [parse_strategy(str(item)) for item in listed]


def table_columns() -> list[Any]:
    """Columns of the table on the screen and in compare.md."""
    from speechmtp.scoring.tables import Column

    return [
        Column("name", "strategy"), Column("exact"), Column("wer", "WER %"), Column("interval", "95 % interval"),
        Column("same", "same as ar"), Column("trunk_calls", "calls"), Column("tokens_per_call", "tokens/call"),
        Column("oracle_tokens_per_call", "ceiling"), Column("mean_acceptance_length", "mean accepted"),
        Column("seconds", "decoder s"), Column("speedup_vs_ar", "speed-up"),
        Column("end_to_end_speedup_vs_ar", "end to end"), Column("rtfx", "RTFx", 1),
    ]  # fmt: skip


def table_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """compare.json's rows with names and intervals as they are shown."""
    from speechmtp.scoring.plot import row_label

    shown = []
    for row in rows:
        interval = "-" if row["wer_low"] is None else f"{row['wer_low']:.2f}-{row['wer_high']:.2f}"
        same = f"{row['identical_to_ar']}/{row['utterances']}"
        if row["near_ties"]:
            same += f" ({len(row['near_ties'])} near-ties)"
        exact = "-" if row["strategy"] == "ctc-only" else row["exact"]
        shown.append(row | {"name": row_label(row), "interval": interval, "same": same, "exact": exact})
    return shown


def footnote(rows: Sequence[dict[str, Any]]) -> str:
    """What a reader needs to know about the numbers."""
    row = rows[0]
    threads = f", {row['threads']} thread{'s' * (row['threads'] > 1)}" if row.get("threads") else ""
    return (
        f"{row['utterances']} utterances, {row['audio_seconds']:.1f} s of audio, batch size {row['batch_size']}, "
        f"{row['dtype']} on {row['device']}{threads}, seed {row['seed']}, normaliser {row['normalizer']}; calls and "
        f"tokens count the prompt's call and end tokens; ceiling: tokens per call if every draft were right; times are "
        f"of this run, strategies interleaved."
    )


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    from speechmtp.scoring.plot import plot_tradeoff

    try:
        plot_tradeoff(rows, path)
    except SpeechMTPError as error:
        print(f"no picture: {error}")
