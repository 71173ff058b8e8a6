"""strategies side by side in one run: error rates, trunk calls, tokens per call, times"""

import argparse

from speechmtp.cli.options import (
    add_data_argument,
    add_data_options,
    add_draft_options,
    add_model_option,
    add_out_option,
    add_run_options,
    add_sampling_options,
    add_speech_options,
    add_text_options,
    sampling_of,
    settings_of,
)
from speechmtp.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp compare`."""
    add_data_argument(parser, "Kaldi data directory with text; for a text LM a text file")
    add_model_option(parser)
    parser.add_argument("--strategies", default="ar,verify,threshold,ctc,ctc-only", metavar="LIST",
                        help="ar,verify:depth=3,..., `all` that the model can run, `transformers` for its own generate "
                        "on the same weights, or @FILE with a YAML list `strategies` "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--exact", action="store_true", help="leave lossy strategies out")
    add_out_option(parser, "folder for compare.json, .md, .png and texts")
    add_run_options(parser)
    add_draft_options(parser)
    add_sampling_options(parser)
    add_speech_options(parser)
    add_data_options(parser)
    add_text_options(parser)


def run(args: argparse.Namespace) -> int:
    """Compares, prints the table, writes the files; returns 1 if an exact strategy differs beyond near-ties."""
    from speechmtp.cli.checks import check_strategies, check_text_options, prepare_run
    from speechmtp.evaluation.comparison import run_comparison
    from speechmtp.evaluation.comparison_files import comparison_notes, write_comparison
    from speechmtp.evaluation.evaluation_sets import open_model
    from speechmtp.evaluation.selection import StrategySelection
    from speechmtp.evaluation.tables import comparison_columns, comparison_footnote, comparison_rows
    from speechmtp.scoring.tables import render_text

    selection, sampling = StrategySelection.parse(args.strategies, args.exact), sampling_of(args)
    check_text_options(args)
    prepare_run(args)
    model = open_model(settings_of(args))
    check_strategies(selection.listed, model.runner, with_references=True, with_ctc=model.has_ctc)
    strategies = selection.strategies(model.runner, model.has_ctc, sampling.temperature > 0)
    evaluation_set = model.read()
    peers, left_out = selection.peer_modes(evaluation_set, args.batch_size, sampling)
    if not strategies and not peers:
        raise ConfigError(f"--strategies {args.strategies}: nothing is left to run; {'; '.join(left_out)}")
    comparison = run_comparison(evaluation_set, strategies, args.batch_size, sampling, peers=peers)
    notes = comparison_notes(args.data, selection, left_out)
    problem = write_comparison(comparison, notes, args.out)
    rows = comparison.rows
    print(render_text(comparison_rows(rows), comparison_columns(rows)) + "\n" + comparison_footnote(rows, notes))
    if problem:
        print(f"no picture: {problem}")
    return 1 if comparison.differs else 0
