"""The command line: one module per verb, imported only when it is called."""

import argparse
import atexit
import gc
import importlib
import sys
from collections.abc import Collection, Sequence

from speechmtp.cli.interrupts import Interrupts, report_interrupt
from speechmtp.cli.leaving import leave
from speechmtp.cli.streams import release_streams, report, settle_streams
from speechmtp.cli.warnings import warnings_as_lines
from speechmtp.collector import paused_collector
from speechmtp.errors import SpeechMTPError, StaleHeadsError

TYPE_CHECKING = False  # as in the package: a quick import leaves Ctrl-C little time to come before `main`
if TYPE_CHECKING:
    from typing import NoReturn

VERBS = {
    "data": "prepare, validate, subset, split and combine Kaldi data directories",
    "train": "train a tokenizer or a speech recognition model",
    "tune": "choose thresholds and depths of strategies on a development set",
    "decode": "decode a data directory with one strategy",
    "score": "error rates of decoded text",
    "heads": "list a model's multi-token heads, or report what they would accept on your data",
    "compare": "strategies side by side in one run",
    "latency": "live recognition of a data directory: delays of words, error rates, calls, times",
    "strategies": "the strategies and presets there are, their options and what they promise",
    "transcribe": "text of audio files",
    "speak": "speech of a text, to a file or the loudspeaker",
    "voices": "the voices inside the package",
    "serve": "a live server: websocket and HTTP clients of OpenAI, Deepgram and vosk, and a page to talk to",
    "stream": "words of a server as they are spoken: a file, the microphone, or what arrives",
    "codec": "speech tokens of audio whose units are known, and audio of speech tokens",
    "kernels": "the kernels that decoding uses on this machine, and why; compile them",
    "results": "write the table of an experiment into its RESULTS.md",
    "export": "write a model folder again, as 8-bit integers or in float32",
    "demo": "a real recording with the default model, and spelled examples with every strategy",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> "NoReturn":
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def build_parser(verbs: Collection[str]) -> argparse.ArgumentParser:
    """The parser of the command line with the options of `verbs`; modules of other verbs are not imported."""
    parser = _Parser(prog="speechmtp", description="Speech LLMs that predict several tokens at once.")
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
    """Run one verb and return its exit code; a user's error prints one line on stderr and returns 2.

    Without `argv` it is the program itself: it then handles Ctrl-C from here to the end of the process.
    """
    interrupts = Interrupts()
    if argv is None:
        interrupts.install()
    settle_streams()
    code = _guarded(argv, interrupts)
    if argv is None:
        leave(code)
    return code


def _guarded(argv: Sequence[str] | None, interrupts: Interrupts) -> int:
    """Run one verb and return its exit code, also after Ctrl-C; at the end all output is written."""
    try:
        with warnings_as_lines():
            code = _run_verb(list(sys.argv[1:] if argv is None else argv))
        return report_interrupt() if interrupts.came else code
    except BaseException as error:
        if interrupts.came or isinstance(error, KeyboardInterrupt):
            return report_interrupt()
        raise
    finally:
        release_streams()
        interrupts.finish()


def _run_verb(arguments: list[str]) -> int:
    """Run the verb that the arguments name; its exit code, or that of a user's error."""
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
        code = int(importlib.import_module(f"speechmtp.cli.{verb}").run(args))
        sys.stdout.flush()
        return code
    except StaleHeadsError as error:
        report(f"error: {error.problem}, or let them through with --allow-stale-heads")
        return 2
    except SpeechMTPError as error:
        report(f"error: {error}")
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        report(f"error: {error.filename2 or error.filename or arguments[0]}: {error.strerror or error}")
        return 2
    except (MemoryError, RuntimeError) as error:
        if "memory" not in (found := str(error) or "out of memory"):
            raise
        report(f"error: {arguments[0]}: {found.splitlines()[0][:200]}; lower --batch-size, or take a smaller model")
        return 2


if __name__ == "__main__":
    sys.exit(main())
