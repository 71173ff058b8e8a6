"""write the tables of an experiment into a results page, between its markers"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp results`."""
    parser.add_argument("exp", metavar="EXP", help="experiment folder with compare/ and score/")
    parser.add_argument("--out", required=True, metavar="FILE", help="results page; text outside the markers is kept")


def run(args: argparse.Namespace) -> int:
    """Writes the tables of the experiment into the page, in place of its old ones."""
    from speechmtp.evaluation.results_page import write_results

    write_results(args.exp, args.out)
    print(f"results of {Path(args.exp).name}: {args.out}")
    return 0
