"""strategies side by side in one run: error rates, trunk calls, tokens per call, times"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.cli.options import (
    add_data_options,
    add_draft_options,
    add_run_options,
    add_sampling_options,
    add_speech_options,
    add_text_options,
    check_strategies,
    sampling_of,
)
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.models.bases.names import MODEL
from speechmtp.scoring.tables import short_label

if TYPE_CHECKING:
    from speechmtp.decoding.runner import Runner
    from speechmtp.decoding.strategies import Strategy

ALL, PEERS = "all", "transformers"
_GUESSED = ("oracle", "jacobi", "lookahead")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp compare`."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("data_dir", metavar="DATA", help="Kaldi data directory with text; for a text LM a text file")
    parser.add_argument("--strategies", default="ar,verify,threshold,ctc,ctc-only", metavar="LIST",
                        help="ar,verify:depth=3,..., `all` that the model can run, `transformers` for its own generate "
                        "on the same weights, or @FILE with a YAML list `strategies`")  # fmt: skip
    parser.add_argument("--exact", action="store_true", help="leave lossy strategies out")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for compare.json, .md, .png and texts")
    add_run_options(parser)
    add_draft_options(parser)
    add_sampling_options(parser)
    add_speech_options(parser)
    add_data_options(parser)
    add_text_options(parser)


def run(args: argparse.Namespace) -> int:
    """Compares, prints the table, writes the files; 1 if an exact strategy differs beyond near-ties."""
    from speechmtp.evaluation.comparison import run_comparison
    from speechmtp.evaluation.evaluation_sets import open_subject
    from speechmtp.scoring.tables import render_markdown, render_text

    wanted, sampling = Wanted(args.strategies, args.exact), sampling_of(args)
    wanted.drawn = sampling.temperature > 0
    subject, strategies = open_subject(args, wanted.strategies)
    peers, left_out = wanted.peers(subject, args, sampling)
    if not strategies and not peers:
        raise ConfigError(f"--strategies {args.strategies}: nothing is left to run; {'; '.join(left_out)}")
    done = run_comparison(subject, strategies, args.batch_size, sampling, peers=peers)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    notes: dict[str, Any] = {
        "peers": left_out,
        "recommended": wanted.recommended,
        "chosen_on": wanted.chosen_on,
        "data": args.data_dir,
    }
    (out / "compare.json").write_text(json.dumps(done.rows, indent=1) + "\n")
    (out / "notes.json").write_text(json.dumps(notes, indent=1) + "\n")
    rows, columns, note = table_rows(done.rows), table_columns(done.rows), footnote(done.rows, notes)
    (out / "compare.md").write_text(render_markdown(rows, columns) + f"\n{note}\n", encoding="utf-8")
    print(render_text(rows, columns) + "\n" + note)
    for name, texts in zip(_folder_names(list(done.texts)), done.texts.values()):
        folder = out / "text" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text").write_text("".join(f"{n} {t}".rstrip() + "\n" for n, t in sorted(texts.items())))
    _plot(done.rows, out, wanted.recommended)
    return 1 if any(row["differences"] for row in done.rows) else 0


class Wanted:
    """The rows that a command line asks for; `recommended` and `chosen_on` are what a file of strategies says."""

    def __init__(self, text: str, exact: bool = False) -> None:
        from speechmtp.config import read_yaml

        self.recommended = self.chosen_on = ""
        if text.startswith("@"):
            found = read_yaml(text[1:])
            listed = found.get("strategies")
            if not isinstance(listed, list) or not listed:
                raise ConfigError(f"{text[1:]}: a list `strategies` is expected")
            self.parts = [str(item) for item in listed]
            self.recommended, self.chosen_on = str(found.get("recommended", "")), str(found.get("chosen_on", ""))
        else:
            from speechmtp.decoding.strategies import split_strategies

            self.parts = split_strategies(text)
        from speechmtp.decoding.strategies import parse_strategy

        self.drawn = False
        self.all, self.with_peers = ALL in self.parts, PEERS in self.parts or ALL in self.parts
        listed = [parse_strategy(part) for part in self.parts if part not in (ALL, PEERS)]
        self.exact, self.listed = exact, [strategy for strategy in listed if strategy.exact or not exact]

    def strategies(self, runner: "Runner", ctc: bool) -> list["Strategy"]:
        """Strategies that the model can run: all of a list, or an error; of `all`, those that can."""
        found = check_strategies(self.listed, runner, with_references=True, with_ctc=ctc)
        found += [s for s in runner.usable(ctc, self.drawn) if s.exact or not self.exact] if self.all else []
        return list({strategy.label: strategy for strategy in found}.values())

    def peers(self, subject: Any, args: argparse.Namespace, sampling: Any) -> tuple[list[str], list[str]]:
        """Modes of transformers' `generate` that can run here, and why the others cannot."""
        from speechmtp.evaluation.peers import peer_modes

        if not self.with_peers:
            return [], []
        if args.batch_size > 1 or not sampling.plain:
            return [], ["transformers' own rows are run greedily at batch size 1 only"]
        modes = peer_modes(subject.runner.trunk, subject.embedded, subject.assistant)
        notes = [f"transformers:{mode} is left out: {why}" for mode, why in modes.items() if why is not None]
        return [mode for mode, why in modes.items() if why is None], notes


def table_columns(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Columns of the table on the screen and in compare.md: those that some row has a value for."""
    from speechmtp.scoring.tables import Column

    scored, heard, drawn = (any(row.get(key) is not None for row in rows) for key in ("wer", "rtfx", "acceptance"))
    return [
        Column("name", "strategy"), Column("exact"),
        *([Column("wer", "WER %"), Column("interval", "95 % interval")] if scored else []),
        Column("same", "same as ar"), Column("trunk_calls", "calls"), Column("tokens_per_call", "tokens/call"),
        Column("oracle_tokens_per_call", "ceiling"), Column("mean_acceptance_length", "mean accepted"),
        *([Column("stayed", "stayed %", 1), Column("expected", "sum min(p, q) %", 1)] if drawn else []),
        Column("positions", "accepted by position %"), Column("draft_ms_per_call", "draft ms"),
        Column("draft_calls", "draft calls"), Column("seconds", "decoder s"), Column("speedup_vs_ar", "speed-up"),
        *([Column("end_to_end_speedup_vs_ar", "end to end"), Column("rtfx", "RTFx", 1)] if heard else []),
    ]  # fmt: skip


def table_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """compare.json's rows with names and intervals as they are shown."""
    shown = []
    for row in rows:
        interval = "-" if row["wer_low"] is None else f"{row['wer_low']:.2f}-{row['wer_high']:.2f}"
        same = f"{row['identical_to_ar']}/{row['utterances']}"
        if row["near_ties"]:
            same += f" ({len(row['near_ties'])} near-ties)"
        exact = "-" if row["strategy"] == "ctc-only" else "yes" if row["exact"] else "no"
        if exact == "yes" and not row.get("seeded", True):
            exact = "in distribution"
        rates = row.get("acceptance_per_position")
        shares = (row.get("acceptance"), row.get("expected_acceptance"))
        shown.append(row | {
            "name": short_label(row["label"]), "interval": interval, "same": same, "exact": exact,
            "positions": " ".join(f"{100 * rate:.0f}" for rate in rates[:8]) if rates else "-",
            "stayed": None if shares[0] is None else 100 * shares[0],
            # Guesses that come from the trunk's own noise, and rules of another distribution, have no such expectation.
            "expected": 100 * shares[1] if shares[1] is not None and exact != "no" and row["strategy"] not in _GUESSED
            else None,
        })  # fmt: skip
    return shown


def footnote(rows: Sequence[dict[str, Any]], notes: dict[str, Any] | None = None) -> str:
    """What a reader needs to know about the numbers, and which strategy to take."""
    row, notes = rows[0], notes or {}
    threads = f", {row['threads']} thread{'s' * (row['threads'] > 1)}" if row.get("threads") else ""
    audio = f", {row['audio_seconds']:.1f} s of audio" if row.get("audio_seconds") else ""
    normalizer = f", normaliser {row['normalizer']}" if row.get("normalizer") else ""
    drafts = " (heads draft in 8 bits)" if row.get("drafts") == "int8" else ""
    sampling = ", ".join(f"{key} {value}" for key, value in (row.get("sampling") or {}).items() if key != "seed")
    text = (
        f"{row['utterances']} utterances{audio}, batch size {row['batch_size']}, {sampling or 'greedy'}, "
        f"{row['dtype']}{drafts} on {row['device']}{threads}, seed {row['seed']}{normalizer}; calls and "
        f"tokens count the prompt's call and end tokens; ceiling: tokens per call if every draft were right; times are "
        f"of this run, strategies interleaved."
    )
    if any(r["exact"] and not r.get("seeded", True) for r in rows):
        text += " In distribution: the tokens are others than `ar`'s with this seed, their distribution is the same."
    if any(r.get("acceptance") is not None for r in rows):
        text += (
            " Stayed: accepted drafted tokens over those that were judged, a chain's up to its first refused one; "
            "beside it what a single draw should come to."
        )
    flagged = {flag: r["flagged"][flag] for r in rows for flag in r.get("flagged", {}) if r["label"] == "ar"}
    if flagged:
        text += " Flagged in `ar`: " + ", ".join(f"{count} {flag}" for flag, count in flagged.items()) + "."
    for note in notes.get("peers", ()):
        text += f" {note}."
    if notes.get("recommended"):
        name = short_label(notes["recommended"])
        text += f"\n\nTake `{name}`: the fastest exact strategy on {notes['chosen_on'] or 'dev'}."
    return text


def _folder_names(labels: Sequence[str]) -> list[str]:
    """A folder's name for each label; that of a large tree is too long for a file system."""
    short = [short_label(label).translate(str.maketrans(":, ", "___")) for label in labels]
    return [f"{name}_{short[:n].count(name) + 1}" if name in short[:n] else name for n, name in enumerate(short)]


def _plot(rows: Sequence[dict[str, Any]], out: Path, recommended: str) -> None:
    """The pictures; a text LM's texts have no word error rate, so one is enough."""
    from speechmtp.scoring.plot import plot_tradeoff

    scored = any(row["wer"] is not None for row in rows)
    pictures = {"compare.png": "tokens_per_call", "compare_seconds.png": "seconds"}
    try:
        for name, x in (pictures if scored else {"compare.png": "speedup_vs_ar"}).items():
            plot_tradeoff(rows, out / name, x, recommended)
    except SpeechMTPError as error:
        print(f"no picture: {error}")
