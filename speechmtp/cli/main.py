"""The command line: one module per verb, imported only when it is called."""

import argparse
import atexit
import gc
import importlib
import sys
from collections.abc import Collection, Sequence

from speechmtp.collector import paused_collector
from speechmtp.errors import SpeechMTPError, StaleHeadsError

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
    "demo": "a real recording with the default model, and spelled examples with every strategy",
}


def build_parser(verbs: Collection[str]) -> argparse.ArgumentParser:
    """The parser of the command line with the options of `verbs`; modules of other verbs are not imported."""
    parser = argparse.ArgumentParser(prog="speechmtp", description="Speech LLMs that predict several tokens at once.")
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    found = parser.add_subparsers(dest="verb", metavar="VERB", help="what to do; `VERB --help` says more")
    for name, summary in VERBS.items():
        sub = found.add_parser(name, help=summary, description=summary)
        if name in verbs:
            with paused_collector():
                module = importlib.import_module(f"speechmtp.cli.{name}")
            module.add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; a user's error prints one line on stderr and returns 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    parser = build_parser([verb] if verb else [])
    args = parser.parse_args(arguments)
    if args.version:
        from speechmtp import __version__

        print(f"speechmtp {__version__}")
        return 0
    if verb is None:
        parser.print_help()
        return 2
    # At the end of the process the collector need not look through all that was imported.
    atexit.register(gc.freeze)
    try:
        return int(importlib.import_module(f"speechmtp.cli.{verb}").run(args))
    except StaleHeadsError as error:
        print(f"speechmtp: error: {error.problem}, or let them through with --allow-stale-heads", file=sys.stderr)
        return 2
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
