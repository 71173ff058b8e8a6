"""`train codec`: the networks of a speech codec, from the weights of another or from random ones"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.cli.options import add_data_options, add_loop_options, add_out_option
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.codec.unit25 import Unit25Codec
    from speechmtp.training.tasks.codec import CodecTrainConfig

CONFIG = "config.yaml"  # the configuration of a training


def add_codec_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp train codec`."""
    told = "with tables phones, frames and tokens (`codec encode` writes them)"
    parser.add_argument("--train", required=True, metavar="DATA", help=f"data directory to train on, {told}")
    parser.add_argument("--dev", required=True, metavar="DATA", help="data directory on which weights are chosen")
    add_out_option(parser, "folder of the training; the codec is DIR/model")
    parser.add_argument("--init", required=True, metavar="FOLDER|none",
                        help="codec whose weights, levels and sizes are taken; none: random weights")  # fmt: skip
    parser.add_argument("--config", metavar="YAML", help="training configuration (default: built-in values)")
    parser.add_argument("--storage", choices=("float32", "int8"), default="int8",
                        help="how weights are stored (default int8)")  # fmt: skip
    add_loop_options(parser)
    add_data_options(parser)


def run_codec(args: argparse.Namespace) -> int:
    """Trains a codec and writes its folder."""
    from speechmtp.cli.checks import check_device
    from speechmtp.codec.folder import load_codec, save_codec
    from speechmtp.codec.unit25 import Unit25Codec
    from speechmtp.config import load_config
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.training import distributed
    from speechmtp.training.inputs import keep_inputs, tables_fact
    from speechmtp.training.tasks.codec import CodecTrainConfig, train_codec
    from speechmtp.training.tasks.codec_data import read_recordings
    from speechmtp.training.tasks.tts_data import TABLES

    config = load_config(CodecTrainConfig, args.config, args.overrides)
    check_device(args)
    device = distributed.own_device(args.device)
    out = Path(args.out)
    if (out / CONFIG).exists() and not args.resume:
        raise ConfigError(f"{out}: holds a training already; give --resume to go on, or another --out")
    if args.init == "none":
        codec = Unit25Codec(config.codec)
    else:
        codec = load_codec(Path(args.init))
        config = _with_codec(config, codec, args)
    sets, inputs = [], {"init": _digest(args.init)}
    for name in ("train", "dev"):
        data = read_data_dir(getattr(args, name), args.root, need_text=False, allow_pipes=args.allow_pipes)
        inputs[name] = tables_fact(data, TABLES)
        sets.append(read_recordings(data, data.path / "tokens", codec.size))
    keep_inputs(out, CONFIG, config, inputs)
    figures = train_codec(config, codec, sets[0], sets[1], out / "training", args.resume, args.allow_pipes, device)
    save_codec(codec, out / "model", _card(args, config, codec, figures, len(sets[0])), args.storage)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}), flush=True)
    print(f"model: {out / 'model'}")
    return 0


def _with_codec(config: "CodecTrainConfig", codec: "Unit25Codec", args: argparse.Namespace) -> "CodecTrainConfig":
    """The configuration with the codec's own; ConfigError if the user asked for others."""
    from dataclasses import replace

    asked = [item for item in args.overrides if item.startswith("codec.")]
    if asked:
        raise ConfigError(f"train codec: {asked[0]} beside --init {args.init}; a codec's sizes go with --init none")
    return replace(config, codec=codec.config)


def _digest(init: str) -> str:
    from speechmtp.codec.folder import WEIGHTS
    from speechmtp.models.storage import file_digest

    return "none" if init == "none" else file_digest(Path(init) / WEIGHTS)


def _card(
    args: argparse.Namespace, config: "CodecTrainConfig", codec: "Unit25Codec", figures: dict[str, float], count: int
) -> str:
    size = sum(p.numel() for p in codec.parameters())
    begun = "random weights" if args.init == "none" else f"the weights of {Path(args.init).name}"
    lines = "\n".join(f"- {name}: {value:.4f}" for name, value in figures.items() if name != "score")
    return (
        f"# Codec card\n\n`unit25` with {codec.size} tokens, {size} parameters, trained by `speechmtp train codec` "
        f"from {begun} on {count} utterances: {config.steps} updates of {config.rows} crops of "
        f"{config.quanta * 0.2:.1f} s, seed {config.seed}.\n\nDevelopment figures (nats):\n{lines}\n"
    )
