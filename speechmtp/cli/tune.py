"""choose thresholds, depths, trees and sizes on a development set and store the strategies to compare"""

import argparse
from typing import TYPE_CHECKING

from speechmtp.cli.options import (
    add_data_argument,
    add_data_options,
    add_draft_options,
    add_model_option,
    add_out_option,
    add_run_options,
    add_text_options,
    settings_of,
)
from speechmtp.errors import ConfigError
from speechmtp.evaluation.settings import THETAS

if TYPE_CHECKING:
    from speechmtp.evaluation.tuning import TuningConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp tune`."""
    add_data_argument(parser, "development data directory; for a text LM a text file")
    add_model_option(parser)
    add_out_option(parser, "folder for tune.json")
    parser.add_argument("--conf", required=True, metavar="YAML", help="written: the strategies with their options")
    parser.add_argument("--loss", type=float, default=0.3, metavar="POINTS",
                        help="WER that a lossy strategy may cost on the development set (default 0.3)")  # fmt: skip
    parser.add_argument("--thetas", type=float, nargs="+", default=list(THETAS), metavar="T",
                        help="thresholds to try (default: %(default)s)")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="every strategy and preset that the model can run, not only "
                        "ar, verify, threshold and ctc")  # fmt: skip
    parser.add_argument("--strategies", metavar="LIST", help="with --all: these names only (default: all that can run)")
    add_run_options(parser)
    add_draft_options(parser)
    add_data_options(parser)
    add_text_options(parser)


def run(args: argparse.Namespace) -> int:
    """Compares all candidates, chooses the best of each kind, writes tune.json and the strategies."""
    from speechmtp.cli.checks import check_text_options, prepare_run
    from speechmtp.evaluation.evaluation_sets import open_model
    from speechmtp.evaluation.tuning import basic_candidates, run_tuning, write_tuning

    config = _config(args)
    check_text_options(args)
    prepare_run(args)
    model = open_model(settings_of(args))
    basic_candidates(model.runner, model.has_ctc, config)  # report a wrong threshold before any audio is read
    tuning = run_tuning(model.read(), config, args.batch_size, args.seed)
    write_tuning(tuning, config, args.data, args.out, args.conf)
    for row in tuning.chosen:
        calls = f", {row['tokens_per_call']:.2f} tokens a call" if row["tokens_per_call"] else ""
        error = f"WER {row['wer']:.2f}" if row["wer"] is not None else f"{row['identical_to_ar']} texts as `ar`"
        print(f"{row['label']}: {error}{calls}, {row['seconds']:.2f} s")
    best = tuning.recommended
    print(f"strategies: {args.conf}" + (f"; the fastest exact one: {best}" if best else ""))
    return 0


def _config(args: argparse.Namespace) -> "TuningConfig":
    """The tuning configuration given by the options."""
    from speechmtp.decoding.strategies import parse_strategy
    from speechmtp.evaluation.tuning import TuningConfig

    if args.strategies is not None and not args.all:
        raise ConfigError(f"--strategies {args.strategies}: goes with --all; add it")
    names = None if args.strategies is None else [parse_strategy(n).name for n in args.strategies.split(",")]
    return TuningConfig(args.thetas, args.all, names, args.loss)
