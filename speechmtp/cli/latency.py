"""live recognition of a data directory: delays of words, error rates, calls and times beside those offline"""

import argparse
from typing import TYPE_CHECKING

from speechmtp.cli.options import (
    add_data_argument,
    add_data_options,
    add_loading_options,
    add_model_option,
    add_out_option,
    add_speech_options,
    settings_of,
)
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.evaluation.latency import FeedConfig
    from speechmtp.evaluation.latency_choice import DelayLimits
    from speechmtp.streaming.config import StreamConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp latency`."""
    add_data_argument(parser, "Kaldi data directory with text")
    add_model_option(parser)
    parser.add_argument("--step", default="", metavar="S,...",
                        help="seconds of audio between passes, a row each (default: that of --conf, 0.5)")  # fmt: skip
    parser.add_argument("--conf", metavar="YAML", help="keys of StreamConfig (streaming/config.py) and their values")
    parser.add_argument("--grid", metavar="YAML",
                        help="keys of StreamConfig with lists of values, each combination a row")  # fmt: skip
    parser.add_argument("--choose", metavar="YAML",
                        help="written: the configuration with the fewest word errors within the limits")  # fmt: skip
    parser.add_argument("--most-mean", type=float, default=1.0, metavar="S",
                        help="with --choose: limit of the mean delay of words (default 1.0)")  # fmt: skip
    parser.add_argument("--most-p90", type=float, default=1.4, metavar="S",
                        help="with --choose: limit of the delay of nine words of ten (default 1.4)")  # fmt: skip
    parser.add_argument("--piece-ms", type=int, default=20, metavar="MS", help="length of what is fed (default 20)")
    parser.add_argument("--silence", type=float, default=1.0, metavar="S",
                        help="seconds of silence behind each utterance, which end it (default 1)")  # fmt: skip
    add_out_option(parser, "folder for latency.json, .md, .png, config.yaml and texts")
    add_loading_options(parser)
    parser.set_defaults(batch_size=1)  # of decoding, which `prepare_run` checks
    add_speech_options(parser)
    add_data_options(parser)


def run(args: argparse.Namespace) -> int:
    """Recognises offline and live, prints the tables, writes the files."""
    from speechmtp.bundle import reads_text
    from speechmtp.cli.checks import prepare_run
    from speechmtp.config import to_dict, write_yaml
    from speechmtp.evaluation.latency import open_live_set, run_latency
    from speechmtp.evaluation.latency_choice import choose_stream
    from speechmtp.evaluation.latency_files import write_latency
    from speechmtp.evaluation.latency_tables import latency_tables

    feed, limits, configs = _feed(args), _limits(args), _configs(args)
    if reads_text(args.model):
        raise ConfigError(f"--model {args.model}: a text LM; give a speech model")
    prepare_run(args)
    latency = run_latency(open_live_set(settings_of(args)), configs, feed, args.seed)
    settings = {"data": args.data, "model": args.model, "feed": to_dict(feed),
                "streams": {label: to_dict(config) for label, config in configs.items()}}  # fmt: skip
    problem = write_latency(latency, settings, args.out)
    print(latency_tables(latency.rows, latency.facts), end="")
    if problem:
        print(f"no picture: {problem}")
    if args.choose:
        label, config = choose_stream(latency.rows, configs, limits)
        write_yaml(args.choose, config)
        print(f"{args.choose}: {label}")
    return 0


def _feed(args: argparse.Namespace) -> "FeedConfig":
    from speechmtp.cli.options import check_options
    from speechmtp.evaluation.latency import FeedConfig

    check_options(args, FeedConfig, ("piece_ms", "silence"))
    return FeedConfig(args.piece_ms, args.silence)


def _limits(args: argparse.Namespace) -> "DelayLimits":
    from speechmtp.evaluation.latency_choice import DelayLimits

    for name, value in (("--most-mean", args.most_mean), ("--most-p90", args.most_p90)):
        if not value > 0:
            raise ConfigError(f"{name} {value:g}: expected a number of seconds above 0")
    return DelayLimits(args.most_mean, args.most_p90)


def _configs(args: argparse.Namespace) -> "dict[str, StreamConfig]":
    """The streams to run, by their labels."""
    from speechmtp.config import load_config, read_yaml
    from speechmtp.evaluation.latency_choice import stream_grid
    from speechmtp.streaming.config import StreamConfig

    try:
        steps = [float(part) for part in args.step.split(",")] if args.step else []
    except ValueError:
        raise ConfigError(f"--step {args.step}: expected seconds, such as 0.5 or 0.5,1.0") from None
    base = load_config(StreamConfig, args.conf)
    grid = read_yaml(args.grid) if args.grid else {}
    if steps and "step" in grid:
        raise ConfigError(f"--step {args.step}: {args.grid} has steps too; give them once")
    return stream_grid(base, steps, grid, args.grid or "--step")
