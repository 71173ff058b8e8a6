"""a real recording with the default model, spelled examples with every strategy, a voice, and what to type next"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.cli.options import add_run_options
from speechmtp.models.bases.names import SPEECH_MODEL

if TYPE_CHECKING:
    from speechmtp.api import Recogniser
    from speechmtp.data.kaldi import DataDir
    from speechmtp.decoding.strategies import Strategy

SAID = "Good morning. I am a voice that draws several tokens at a time, and one seed always says the same."
SHOWN = ("ar", "verify", "threshold", "ctc", "ctc-only", "oracle")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp demo`."""
    parser.add_argument(
        "--model", metavar="MODEL", default="an4", help=f"for the spelled examples: {SPEECH_MODEL}; without it an4"
    )
    parser.add_argument("--strategies", metavar="LIST", help=f"default: {','.join(SHOWN)}, as far as the model can")
    parser.add_argument("--out", metavar="DIR", default="demo", help="folder of the speech (default demo)")
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the real recording's text, the spelled examples by every strategy and their table, what the voice says
    and how it is read back, and the next commands."""
    import speechmtp
    from speechmtp.cli.checks import open_recogniser
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.decoding.strategies import parse_strategies

    wanted = parse_strategies(args.strategies) if args.strategies else []
    recogniser = open_recogniser(args)
    strategies = _strategies(recogniser, wanted)
    folder = Path(speechmtp.__file__).parent / "assets" / "examples"
    _show_reading(args, folder / "speech")
    _show_spelled(args, recogniser, strategies, read_data_dir(folder, folder))
    _show_speaking(args)
    print(
        f"\nNext:\n  {sys.argv[0]} transcribe recording.wav\n      your own recording, of any length\n"
        f"  {sys.argv[0]} speak 'Good morning.' --out morning.mp3\n      your own text, of any length\n"
        f"  {sys.argv[0]} compare DATA --model {args.model} --strategies all --out cmp\n      a Kaldi data directory\n"
        "  cd egs/an4/asr1 && ./run.sh --data-args '--download true'\n"
        "      train the model yourself, from raw corpus to table (or SPEECHMTP_CORPORA=FOLDER ./run.sh)"
    )
    return 0


def _strategies(recogniser: "Recogniser", wanted: list["Strategy"]) -> list["Strategy"]:
    """The strategies for the spelled examples: those given, else those of `SHOWN` that the model can run."""
    from speechmtp.cli.checks import check_strategies

    runner, ctc = recogniser.runner, recogniser.has_ctc
    chosen = check_strategies(wanted, runner, with_references=True, with_ctc=ctc)
    return chosen or [strategy for strategy in runner.usable(ctc) if strategy.name in SHOWN]


def _show_reading(args: argparse.Namespace, folder: Path) -> None:
    """Print the reference text of the real recording, the default model's transcript, its times, and the credit."""
    from speechmtp.api import load
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.text.lines import one_line

    recogniser = load("default", args.device, args.dtype)
    for utterance in read_data_dir(folder, folder).utterances:
        found = recogniser.transcribe(utterance.audio, jobs=1)
        trace, seconds = found.trace, found.listen_seconds + found.seconds
        print(f"{Path(utterance.audio).name}: said {utterance.text}")
        print(f"  default writes: {one_line(str(found))}")
        print(
            f"  {found.audio_seconds:.1f} s of audio in {seconds:.2f} s ({found.listen_seconds:.2f} encoder,"
            f" {found.seconds:.2f} decoder): {trace.emitted} tokens in {trace.calls} decoder calls,"
            f" {recogniser.default_strategy.label}"
        )
    credit = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    print(f"  {credit['source']}")


def _show_speaking(args: argparse.Namespace) -> None:
    """Speak a text to a file, draw its spectrogram, and print how the default model reads it back."""
    import time

    from speechmtp.api import load, load_voice
    from speechmtp.errors import DataError
    from speechmtp.scoring.plot_speech import plot_speech
    from speechmtp.text.lines import one_line

    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    voice = load_voice(device=args.device)
    began = time.perf_counter()
    speech = voice.synthesize(SAID, seed=args.seed)
    spent, trace = time.perf_counter() - began, speech.trace
    speech.save(folder / "speech.wav")
    print(
        f"\nspeak: {SAID}\n  {folder / 'speech.wav'}: {speech.seconds:.1f} s of audio in {spent:.2f} s, "
        f"{trace.emitted} tokens in {trace.calls} calls, {voice.default_strategy.label}"
    )
    picture = folder / "speech.png"
    try:
        words = [(mark.text, mark.start, mark.stop) for mark in speech.marks]
        plot_speech(speech.audio, speech.rate, words, picture, "speech.wav, voice heart")
        print(f"  {picture}: its spectrogram")
    except DataError as error:  # without matplotlib
        print(f"  {one_line(str(error))}")
    heard = load("default", args.device, args.dtype).transcribe(speech.audio, speech.rate, jobs=1)
    print(f"  read back by default: {one_line(str(heard))}")


def _show_spelled(
    args: argparse.Namespace, recogniser: "Recogniser", strategies: list["Strategy"], data: "DataDir"
) -> None:
    """Print the transcripts of every strategy on the spelled examples, and the table that compares them."""
    from speechmtp.decoding.sampling import SamplingConfig
    from speechmtp.evaluation.comparison import run_comparison
    from speechmtp.evaluation.evaluation_sets import SpeechEvaluationSet, encode_all
    from speechmtp.evaluation.tables import comparison_columns, comparison_footnote, comparison_rows
    from speechmtp.scoring.tables import render_text
    from speechmtp.text.lines import one_line

    requests, seconds = encode_all(recogniser, data, False)
    evaluation_set = SpeechEvaluationSet(recogniser, requests, seconds, data.transcripts())
    done = run_comparison(evaluation_set, strategies, args.batch_size, SamplingConfig(seed=args.seed))
    files = [utterance.audio for utterance in data.utterances]
    texts = {
        one.label: list(recogniser.transcribe_many(files, strategy=one, batch=args.batch_size, jobs=1))
        for one in strategies if "reference" not in one.needs
    }  # fmt: skip
    width = max(map(len, texts), default=0)
    print(f"\n{args.model} on a synthesiser's voice, spelled letters and numbers:")
    for number, utterance in enumerate(data.utterances):
        print(f"\n{Path(utterance.audio).name}: said {utterance.text}")
        for label, transcripts in texts.items():
            print(f"  {label:{width}}  {one_line(str(transcripts[number]))}")
    print("\n" + render_text(comparison_rows(done.rows), comparison_columns(done.rows)))
    print(comparison_footnote(done.rows))
