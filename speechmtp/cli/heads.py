"""head sets: those that a model has (`heads list`), and what each would accept on your data (`heads report`)"""

import argparse

from speechmtp.cli.options import (
    add_data_argument,
    add_data_options,
    add_head_options,
    add_model_option,
    add_out_option,
    add_run_options,
    add_text_options,
    settings_of,
)
from speechmtp.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp heads`."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, help="what is asked of the head sets")
    shown = kinds.add_parser("list", help="the head sets of a model and of other folders")
    add_model_option(shown)
    add_head_options(shown)
    report = kinds.add_parser("report", help="acceptance per depth and tokens per call, predicted by one pass")
    add_data_argument(report, "Kaldi data directory; for a text LM a text file, a text a line")
    add_model_option(report)
    report.add_argument("--reference", choices=("ar", "text"), default="ar",
                        help="judge on what `ar` says, decoded once and stored (default), "
                        "or on transcripts, the text itself (biased)")  # fmt: skip
    add_out_option(report, "folder for the report and the stored tokens (default: in `report` of the first head "
                   "folder)", required=False)  # fmt: skip
    add_run_options(report)
    add_data_options(report)
    add_text_options(report)


def run(args: argparse.Namespace) -> int:
    """Lists head sets, or reports on their acceptance."""
    return _list(args) if args.kind == "list" else _report(args)


def _list(args: argparse.Namespace) -> int:
    from speechmtp.cli.checks import check_heads
    from speechmtp.evaluation.head_list import HEAD_COLUMNS, list_heads
    from speechmtp.scoring.tables import render_text

    check_heads(args.model, args.heads)
    rows = list_heads(args.model, args.heads)
    if rows:
        print(render_text(rows, HEAD_COLUMNS), end="")
    else:
        print(f"{args.model}: no heads; train some, or name head folders with --heads")
    return 0


def _report(args: argparse.Namespace) -> int:
    from speechmtp.cli.checks import check_text_options, prepare_run
    from speechmtp.evaluation.head_report import (
        head_folders,
        report_folder,
        report_footnote,
        report_heads,
        report_tables,
        write_head_report,
    )
    from speechmtp.evaluation.reference_outputs import write_problem
    from speechmtp.scoring.tables import render_text

    check_text_options(args)
    prepare_run(args)
    folders = head_folders(args.model, args.heads)
    if not folders:
        raise ConfigError(f"heads: {args.model} has no heads; train some, or give a head folder with --heads")
    folder = report_folder(args.data, folders, args.out or "")
    if problem := write_problem(folder):
        raise ConfigError(f"{folder}: cannot be written ({problem}); give a folder with --out")
    report = report_heads(settings_of(args), args.reference, args.out or "", args.batch_size)
    for headline, rows, columns in report_tables(report.summary):
        print(f"{headline}\n{render_text(rows, columns)}")
    print(report_footnote(report.summary))
    if problem := write_head_report(report):
        print(f"no picture: {problem}")
    print(f"report: {report.folder}")
    return 0
