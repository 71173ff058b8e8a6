"""`train tts`: a voice from units, their durations and the speech tokens of a codec"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.cli.options import add_data_options, add_loop_options, add_out_option
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.models.bases.contract import UnitModel
    from speechmtp.training.tasks.tts import TtsConfig
    from speechmtp.training.tasks.tts_data import Spoken

CONFIG = "config.yaml"  # the configuration of a training


def add_tts_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp train tts`."""
    told = "with tables phones, frames and tokens (`codec encode` writes them)"
    parser.add_argument("--train", required=True, metavar="DATA", help=f"data directory to train on, {told}")
    parser.add_argument("--dev", required=True, metavar="DATA", help="data directory on which weights are chosen")
    add_out_option(parser, "folder of the training; the voice is DIR/model")
    parser.add_argument("--codec", metavar="DIR", default="", help="codec of the tokens (default: the embedded one)")
    parser.add_argument("--config", metavar="YAML", help="training configuration (default: built-in values)")
    parser.add_argument("--storage", choices=("float32", "int8"), default="float32",
                        help="how weights are stored (default float32)")  # fmt: skip
    add_loop_options(parser)
    add_data_options(parser)


def run_tts(args: argparse.Namespace) -> int:
    """Trains a voice and writes its folder, with the codec."""
    from speechmtp.bundle import Bundle, BundleConfig, save_bundle
    from speechmtp.cli.checks import check_device
    from speechmtp.codec.folder import default_codec, load_codec
    from speechmtp.config import load_config
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.training import distributed
    from speechmtp.training.inputs import keep_inputs, tables_fact, text_fact
    from speechmtp.training.tasks.asr import pick_precision
    from speechmtp.training.tasks.tts import TtsConfig, train_voice
    from speechmtp.training.tasks.tts_data import TABLES, read_spoken

    out, config = Path(args.out), load_config(TtsConfig, args.config, args.overrides)
    check_device(args)
    if (out / CONFIG).exists() and not args.resume:
        raise ConfigError(f"{out}: holds a training already; give --resume to go on, or another --out")
    device = distributed.own_device(args.device)
    rank, _ = distributed.start(device)
    codec_folder = Path(args.codec) if args.codec else default_codec()
    codec = load_codec(codec_folder)
    config = replace(config, model=replace(config.model, tokens=codec.size))
    sets, inputs = list[list["Spoken"]](), {"codec": text_fact(codec_folder / "model.safetensors")}
    for name in ("train", "dev"):
        data = read_data_dir(getattr(args, name), args.root, need_text=False, allow_pipes=args.allow_pipes)
        inputs[name] = tables_fact(data, TABLES)
        sets.append(read_spoken(data, codec.size))
    if rank == 0:
        keep_inputs(out, CONFIG, config, inputs)
    precision = pick_precision(config.precision, device)
    voice, figures = train_voice(config, sets[0], sets[1], out / "training", precision, args.resume, device)
    if rank == 0:
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}), flush=True)
        bundle = Bundle(
            BundleConfig(kind="voice", model=config.model), voice.cpu(), codec=codec, codec_folder=codec_folder
        )
        bundle.card = _card(args, config, voice, figures, len(sets[0]))
        save_bundle(bundle, out / "model", args.storage)
        print(f"model: {out / 'model'}")
    return 0


def _card(
    args: argparse.Namespace, config: "TtsConfig", voice: "UnitModel", figures: dict[str, float], count: int
) -> str:
    size = sum(p.numel() for p in voice.parameters())
    lines = "\n".join(f"- {name}: {value:.3f}" for name, value in figures.items() if name != "score")
    return (
        f"# Model card\n\nA voice, {size} parameters with {sum(p.numel() for p in voice.trunk.parameters())} in its "
        f"trunk, trained by `speechmtp train tts` on {count} utterances of {Path(args.train).name}: {config.steps} "
        f"updates of about {config.batch_tokens} tokens, seed {config.seed}.\n\nDevelopment figures "
        f"({Path(args.dev).name}; nats a token, nats a unit, mean error of a duration):\n{lines}\n"
    )
