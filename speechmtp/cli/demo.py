"""the spoken examples of the package with every strategy, and what to type next"""

import argparse
import sys
from pathlib import Path

from speechmtp.cli.options import add_run_options
from speechmtp.models.bases.names import SPEECH_MODEL

SHOWN = ("ar", "verify", "threshold", "ctc", "ctc-only", "oracle")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp demo`."""
    parser.add_argument("--model", metavar="MODEL", default="an4", help=f"{SPEECH_MODEL}; without it an4")
    parser.add_argument("--strategies", metavar="LIST", help=f"default: {','.join(SHOWN)}, as far as the model can")
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the texts of every strategy, the comparison table and the next commands."""
    import speechmtp
    from speechmtp.cli.checks import check_strategies, open_recogniser
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.decoding.sampling import SamplingConfig
    from speechmtp.decoding.strategies import parse_strategies
    from speechmtp.evaluation.comparison import run_comparison
    from speechmtp.evaluation.evaluation_sets import SpeechEvaluationSet, encode_all
    from speechmtp.evaluation.tables import comparison_columns, comparison_footnote, comparison_rows
    from speechmtp.scoring.tables import render_text

    strategies = parse_strategies(args.strategies) if args.strategies else []
    recogniser = open_recogniser(args)
    runner, ctc = recogniser.runner, recogniser.has_ctc
    strategies = check_strategies(strategies, runner, with_references=True, with_ctc=ctc)
    strategies = strategies or [strategy for strategy in runner.usable(ctc) if strategy.name in SHOWN]
    folder = Path(speechmtp.__file__).parent / "assets" / "examples"
    data = read_data_dir(folder, str(folder))
    requests, seconds = encode_all(recogniser, data, False)
    evaluation_set = SpeechEvaluationSet(recogniser, requests, seconds, data.transcripts())
    done = run_comparison(evaluation_set, strategies, args.batch_size, SamplingConfig(seed=args.seed))
    files = [utterance.audio for utterance in data.utterances]
    said = {
        one.label: list(recogniser.transcribe_many(files, strategy=one, batch=args.batch_size))
        for one in strategies if "reference" not in one.needs
    }  # fmt: skip
    width = max(map(len, said), default=0)
    for number, utterance in enumerate(data.utterances):
        print(f"\n{utterance.audio.removeprefix(str(folder) + '/')}: said {utterance.text}")
        for label, transcripts in said.items():
            print(f"  {label:{width}}  {transcripts[number]}")
    print(
        "\n"
        + render_text(comparison_rows(done.rows), comparison_columns(done.rows))
        + "\n"
        + comparison_footnote(done.rows)
    )
    print(
        "\nThe examples are a synthesiser's voice, spelled letters and numbers.\nNext:\n"
        f"  {sys.argv[0]} transcribe recording.wav\n      your own recording, of any length\n"
        f"  {sys.argv[0]} compare DATA --model {args.model} --strategies all --out cmp\n      a Kaldi data directory\n"
        "  cd egs/an4/asr1 && ./run.sh --data-args '--download true'\n"
        "      train the model yourself, from raw corpus to table (or SPEECHMTP_CORPORA=FOLDER ./run.sh)"
    )
    return 0
