"""The command line: one file a verb, imported when it is called."""

import argparse
import atexit
import gc
import importlib
import sys
from collections.abc import Sequence

from speechmtp.collector import paused_collector
from speechmtp.errors import SpeechMTPError

VERBS = {
    "data": "prepare, validate, subset, split and combine Kaldi data directories",
    "train": "train a tokenizer or a speech recognition model",
    "tune": "choose thresholds and depths of strategies on a development set",
    "decode": "decode a data directory with one strategy",
    "score": "error rates of decoded text",
    "heads": "list a model's multi-token heads, or report what they would accept on your data",
    "compare": "strategies side by side in one run",
    "strategies": "the strategies and presets there are, their options and what they promise",
    "transcribe": "text of audio files",
    "results": "write the table of an experiment into its RESULTS.md",
    "export": "write a model folder again, as 8-bit integers or in float32",
    "demo": "the spoken examples of the package with every strategy",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; a user's mistake is one line on stderr and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = arguments[0] if arguments and arguments[0] in VERBS else None
    parser = argparse.ArgumentParser(prog="speechmtp", description="Speech LLMs that predict several tokens at once.")
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, summary in VERBS.items():
        sub = verbs.add_parser(name, help=summary, description=summary)
        if name == chosen:
            with paused_collector():
                module = importlib.import_module(f"speechmtp.cli.{name}")
            module.add_arguments(sub)
    args = parser.parse_args(arguments)
    if args.version:
        from speechmtp import __version__

        print(f"speechmtp {__version__}")
        return 0
    if chosen is None:
        parser.print_help()
        return 2
    # At the end of the process the collector need not look through all that was imported.
    atexit.register(gc.freeze)
    try:
        return int(module.run(args))
    except SpeechMTPError as error:
        print(f"speechmtp: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"speechmtp: error: {error.filename or arguments[0]}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("speechmtp: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
