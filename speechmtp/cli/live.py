"""`speechmtp transcribe --stream FILE` and `--mic`: words are shown as they are spoken."""

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from speechmtp.cli.interrupts import PoliteInterrupts
from speechmtp.cli.live_view import View, view_for
from speechmtp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from speechmtp.streaming.config import StreamConfig
    from speechmtp.streaming.stream import RecognitionStream


def run_live(args: argparse.Namespace, others: Sequence[str] = ()) -> int:
    """Show what a stream over FILE or the microphone says, until it ends or Ctrl-C is pressed; the last words are shown
    then too. `others` are options given that have no meaning here.

    ConfigError for those and for other options that do not go together, DataError for audio that cannot be read, after
    the words before it.
    """
    from speechmtp.cli.checks import open_recogniser

    _check(args, others)
    config = _config(args)
    recogniser = open_recogniser(args)
    stream = recogniser.create_stream(config, language=args.language, task=args.task)
    blocks = _blocks(args, recogniser.rate)
    _follow(stream, blocks, view_for(args.output, args.words), args.mic or not os.path.isfile(args.files[0]))
    return 0


def _follow(stream: "RecognitionStream", blocks: Iterator[np.ndarray], view: View, waits: bool) -> None:
    """Feed the blocks to the stream and show its events. `waits` says that a block may be long in coming, so that
    Ctrl-C must not wait for it."""
    fed, problem = False, None
    with PoliteInterrupts() as interrupts:
        try:
            while True:
                with interrupts.allowed():
                    block = next(blocks, None) if waits else None
                block = block if waits else next(blocks, None)
                if block is None:
                    break
                view.show(stream.feed(block))
                fed = True
        except KeyboardInterrupt:
            view.show(stream.finish())
            view.close()
            raise
        except DataError as error:
            problem = error
        if fed or problem is None:
            view.show(stream.finish())
            view.close()
    if problem is not None:
        raise problem


def _blocks(args: argparse.Namespace, rate: int) -> Iterator[np.ndarray]:
    """The audio as it arrives."""
    if args.mic:
        from speechmtp.audio.microphone import open_microphone

        return open_microphone(rate)
    from speechmtp.audio.live import open_live
    from speechmtp.audio.raw import RawAudio

    return open_live(args.files[0], rate, None if args.rate is None else RawAudio(args.rate))


def _config(args: argparse.Namespace) -> "StreamConfig":
    """The stream's settings. ConfigError for a step or a strategy that cannot be."""
    from speechmtp.cli.decode import find_strategy
    from speechmtp.config import allowed_values, allows
    from speechmtp.streaming.config import StreamConfig

    step = StreamConfig.step if args.step is None else args.step
    if not allows(StreamConfig, "step", step):
        raise ConfigError(f"--step {step:g}: expected {allowed_values(StreamConfig, 'step')} seconds")
    strategy = find_strategy(args).label if args.strategy else ""
    return StreamConfig(step=step, strategy=strategy, words=args.words)


def _check(args: argparse.Namespace, others: Sequence[str]) -> None:
    """ConfigError for options that do not go together."""
    named = "--mic" if args.mic else "--stream"
    if args.mic and (args.files or args.rate is not None):
        raise ConfigError("--mic: hears the microphone alone; leave FILE and --rate out")
    if args.stream and not args.mic and len(args.files) != 1:
        raise ConfigError(f"--stream: {len(args.files)} files given, expected one FILE, or - for standard input")
    if args.output not in ("txt", "json"):
        raise ConfigError(f"--output {args.output}: not with {named}, whose text is not whole; give txt or json")
    if args.words and args.output != "json":
        raise ConfigError("--words: a line of text has no times; give --output json")
    if not args.strategy and (args.depth is not None or args.theta is not None):
        raise ConfigError("--depth, --theta: of which strategy? give --strategy too")
    if others:
        raise ConfigError(f"{', '.join(others)}: not with {named}; leave {'it' if len(others) == 1 else 'them'} out")
