"""speech of a text: a sentence, a file or standard input, to an audio file or the loudspeaker"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.cli.options import add_loading_options, add_strategy_options
from speechmtp.collector import paused_collector
from speechmtp.errors import ConfigError, DataError
from speechmtp.models.locate import VOICES

if TYPE_CHECKING:
    from speechmtp.synthesis import Mark, Speech, Synthesiser

OUT = "speech.wav"
MOST = 64 << 20  # bytes of text
SHOWN = 8  # things that could not be read, in a warning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp speak`."""
    parser.add_argument("text", metavar="TEXT|FILE|-", help="what to say: a text, a file of text, or standard input")
    parser.add_argument("--voice", metavar="NAME|DIR", default=VOICES[0],
                        help=f"a voice's name or folder (default {VOICES[0]}); see `speechmtp voices`")  # fmt: skip
    parser.add_argument("--out", metavar="FILE",
                        help=f"a .wav, .flac, .mp3, .ogg or .opus file (default {OUT}, unless --play); with --lines a "
                        "folder")  # fmt: skip
    parser.add_argument("--play", action="store_true", help="play it, sentence by sentence")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="0.7 (slow) to 1.4 (fast); default 1")
    parser.add_argument("--markup", choices=("auto", "text", "ssml"), default="auto",
                        help="ssml: break, sub, phoneme, prosody rate (default: after <speak)")  # fmt: skip
    parser.add_argument("--lexicon", metavar="FILE", default="", help="pronunciations: a word and its phones a line")
    parser.add_argument("--marks", metavar="FILE", help="write the times of all words here, as JSON")
    parser.add_argument("--lines", action="store_true",
                        help="TEXT is a file of lines `ID TEXT`; each is spoken to ID.wav in --out")  # fmt: skip
    add_strategy_options(parser)
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="of the tokens (default: the voice's; 0: greedy)"
    )
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="draw from the K likeliest tokens (default: the voice's)"
    )
    add_loading_options(parser, listens=False)


def run(args: argparse.Namespace) -> int:
    """Speaks the text, and says in one line what it took. Words that cannot be read are named in a warning."""
    if args.lines and (args.play or args.marks or not args.out):
        raise ConfigError("--lines: takes --out DIR, and neither --play nor --marks")
    args.model = args.voice
    texts = _lines(args) if args.lines else [(args.out or ("" if args.play else OUT), _text(args))]
    voice = _open(args)
    began, total = time.perf_counter(), 0.0
    skipped = dict[str, None]()
    for out, text in texts:
        spoken = _speak(args, voice, out, text)
        total += spoken[0]
        skipped.update(dict.fromkeys(spoken[1]))
    if args.lines:
        print(f"{args.out}: {len(texts)} files, {total:.1f} s in {time.perf_counter() - began:.1f} s")
    if skipped:
        names = list(skipped)
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        from speechmtp.cli.streams import report

        report(f"warning: not read: {', '.join(names[:SHOWN])}{more}; no pronunciation for these characters")
    return 0


def _open(args: argparse.Namespace) -> "Synthesiser":
    """Load the voice, after checking the options."""
    from speechmtp.cli.checks import prepare_run

    args.batch_size = None
    prepare_run(args)
    with paused_collector():
        from speechmtp.api import load_voice
        from speechmtp.synthesis import FASTEST, SLOWEST

    if not SLOWEST <= args.speed <= FASTEST:
        raise ConfigError(f"--speed {args.speed:g}: expected {SLOWEST} to {FASTEST}")
    with paused_collector():
        return load_voice(
            args.voice, args.device, args.dtype, args.heads, args.allow_stale_heads, args.drafts, args.lexicon
        )


def _text(args: argparse.Namespace) -> str:
    """The text that is given, or that of the file or standard input."""
    given: str = args.text
    if given == "-":
        return _decoded("-", sys.stdin.buffer.read(MOST + 1))
    path = Path(given)
    try:
        is_file = len(os.fsencode(given)) < 4096 and path.is_file()
    except (OSError, ValueError):
        is_file = False
    return _decoded(given, path.read_bytes()[: MOST + 1]) if is_file else given


def _decoded(name: str, raw: bytes) -> str:
    if len(raw) > MOST:
        raise DataError(f"{name}: more than {MOST >> 20} MiB of text; cut it into files")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{name}:{line}: not UTF-8; convert the file") from error


def _lines(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The file to write and the text of every line `ID TEXT`."""
    from speechmtp.data.tables import read_table

    folder = Path(args.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {args.out}: {error.strerror or error}; give a folder that can be written") from error
    return [(str(folder / f"{key}.wav"), text) for key, text in read_table(args.text).items()]


def _speak(args: argparse.Namespace, voice: "Synthesiser", out: str, text: str) -> tuple[float, tuple[str, ...]]:
    """Speak one text; returns its seconds and what could not be read."""
    from speechmtp.progress import counter

    began = time.perf_counter()
    marks: list[Mark] = []
    skipped, samples, calls, tokens = dict[str, None](), 0, 0, 0
    with counter("speaking") as tell:
        for speech in _written(args, voice, out, text):
            marks += speech.marks
            samples += len(speech.audio)
            calls, tokens = calls + speech.trace.calls, tokens + speech.trace.emitted
            skipped.update(dict.fromkeys(speech.skipped))
            tell(float(speech.marks[-1].end if speech.marks else 0), float(len(text)))
    seconds, spent = samples / voice.rate, time.perf_counter() - began
    if args.marks:
        rows = [
            {"text": one.text, "begin": one.begin, "end": one.end, "start": round(one.start, 3),
             "stop": round(one.stop, 3)} for one in marks
        ]  # fmt: skip
        Path(args.marks).write_text(json.dumps({"words": rows}) + "\n", encoding="utf-8")
    if not args.lines:
        label = voice.chosen(_strategy(args)).label
        rate = f", {seconds / spent:.0f} times real time" if spent > 0 and not args.play else ""
        print(
            f"{out or 'played'}: {seconds:.1f} s, {len(marks)} words, {tokens} tokens in {calls} calls ({label}){rate}"
        )
    return seconds, tuple(skipped)


def _strategy(args: argparse.Namespace) -> str:
    """The strategy that the options name, as a string; empty for the voice's own."""
    options = [f"{name}={value}" for name in ("depth", "theta") if (value := getattr(args, name)) is not None]
    if options and not args.strategy:
        raise ConfigError(f"--{options[0].split('=')[0]}: an option of a strategy; give --strategy too")
    name = args.strategy or ""
    return f"{name}{',' if ':' in name else ':'}{','.join(options)}" if options else name


def _written(args: argparse.Namespace, voice: "Synthesiser", out: str, text: str) -> Iterator["Speech"]:
    """The speech of every sentence, as it is written to the file `out` (none if empty) and played."""
    from contextlib import ExitStack
    from dataclasses import replace

    from speechmtp.audio.writer import AudioWriter

    ssml = args.markup == "ssml" or (args.markup == "auto" and text.lstrip().startswith("<speak"))
    sampling = voice.sampling_with(args.seed)
    if args.temperature is not None:
        sampling = replace(sampling, temperature=args.temperature)
    if args.top_k is not None:
        sampling = replace(sampling, top_k=args.top_k)
    with ExitStack() as stack:
        player = None
        if args.play:
            from speechmtp.audio.loudspeaker import Loudspeaker

            player = stack.enter_context(Loudspeaker(voice.rate))
        writer = None
        parts = voice.stream(
            text, _strategy(args), seed=args.seed, speed=args.speed, markup="ssml" if ssml else "text",
            sampling=sampling, batch=1 if args.play else 8,
        )  # fmt: skip
        for speech in parts:
            if out and writer is None:  # the file is made when there is speech, not before an error in the text
                writer = stack.enter_context(AudioWriter(out, voice.rate))
            if writer is not None:
                writer.write(speech.audio)
            if player is not None:
                player.play(speech.audio)
            yield speech
        if out and writer is None:
            stack.enter_context(AudioWriter(out, voice.rate))
