"""train a tokenizer, a speech model (`asr`), heads, a CTC draft head, a language model, a codec or a voice (`tts`)"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.cli.options import add_out_option, add_training_options
from speechmtp.cli.train_codec import add_codec_arguments, run_codec
from speechmtp.cli.train_ctc import add_ctc_arguments, run_ctc
from speechmtp.cli.train_finetune import add_finetune_arguments, run_finetune
from speechmtp.cli.train_heads import add_heads_arguments, run_heads
from speechmtp.cli.train_lm import add_lm_arguments, run_lm
from speechmtp.cli.train_tts import add_tts_arguments, run_tts
from speechmtp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from speechmtp.bundle import Storage
    from speechmtp.data.kaldi import DataDir
    from speechmtp.training.tasks.asr import AsrConfig, Trained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp train`."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, help="what is trained")
    tokens = kinds.add_parser("tokenizer", help="a sentencepiece model")
    tokens.add_argument("--text", required=True, metavar="FILE", help="Kaldi text, or plain text with --plain")
    tokens.add_argument("--plain", action="store_true", help="no utterance id before the sentence")
    tokens.add_argument("--vocab-size", type=int, required=True, metavar="N", help="pieces, with unk, bos and eos")
    tokens.add_argument("--type", choices=("unigram", "bpe", "char"), default="unigram",
                        help="kind of sentencepiece model (default unigram)")  # fmt: skip
    tokens.add_argument("--normalizer", default="kaldi-basic", help="applied first (default kaldi-basic)")
    tokens.add_argument("--out", required=True, metavar="FILE", help="the sentencepiece model that is written")
    asr = kinds.add_parser("asr", help="encoder, trunk and heads from Kaldi data directories")
    asr.add_argument("--config", metavar="YAML", help="model and phases; with --model values of the fine-tuning")
    asr.add_argument("--train", required=True, metavar="DATA", help="data directory to train on")
    asr.add_argument("--dev", required=True, action="append", metavar="DATA",
                     help="data directory on which checkpoints are chosen; with --model repeatable")  # fmt: skip
    add_out_option(asr, "folder of the experiment; the model is DIR/model")
    asr.add_argument("--check", action="store_true", help="read the configuration and stop")
    add_finetune_arguments(asr)
    add_training_options(asr)
    add_heads_arguments(kinds.add_parser("heads", help="multi-token heads for a trained model"))
    add_ctc_arguments(kinds.add_parser("ctc", help="a draft head that spells, for a pretrained recogniser"))
    add_codec_arguments(kinds.add_parser("codec", help="the networks of a speech codec"))
    add_tts_arguments(kinds.add_parser("tts", help="a voice: durations, hints and trunk"))
    add_lm_arguments(kinds.add_parser("lm", help="a causal language model from plain text"))


def run(args: argparse.Namespace) -> int:
    """Trains what `args.kind` names."""
    runs = {
        "tokenizer": _tokenizer, "asr": _asr, "heads": run_heads, "ctc": run_ctc, "lm": run_lm, "codec": run_codec,
        "tts": run_tts,
    }  # fmt: skip
    return runs[args.kind](args)


def _tokenizer(args: argparse.Namespace) -> int:
    from speechmtp.data.tables import read_table
    from speechmtp.text.normalize import get_normalizer
    from speechmtp.text.tokenizer import train_tokenizer

    if args.plain:
        try:
            lines = Path(args.text).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"{args.text}: {error.strerror or error}; a text file is expected") from error
    else:
        lines = list(read_table(Path(args.text)).values())
    normalise = get_normalizer(args.normalizer)
    tokenizer = train_tokenizer([normalise(line) for line in lines], args.vocab_size, args.type)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out)
    print(f"{len(tokenizer)} pieces: {out} (sha256 {tokenizer.sha256[:16]})")
    return 0


def _asr(args: argparse.Namespace) -> int:
    if args.model:
        return run_finetune(args)
    if args.keep or args.prompts:
        raise ConfigError("train asr: --keep and --prompts go with a --model to fine-tune; give one or leave them out")
    if not args.config:
        raise ConfigError("train asr: no --config, and no --model to fine-tune; give one of them")
    if len(args.dev) > 1:
        raise ConfigError("train asr: one --dev data directory expected; join them with data combine")
    return _scratch(args)


def _scratch(args: argparse.Namespace) -> int:
    from speechmtp.cli.checks import check_device
    from speechmtp.config import load_config
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.training import distributed
    from speechmtp.training.tasks.asr import AsrConfig, train_asr

    config = load_config(AsrConfig, args.config, args.overrides)
    if args.check:
        print(f"{args.config}: {len(config.phases)} phases, {sum(p.steps for p in config.phases)} updates")
        return 0
    check_device(args)
    train, dev = (read_data_dir(d, args.root, allow_pipes=args.allow_pipes) for d in (args.train, args.dev[0]))
    out = Path(args.out)
    if (out / "config.yaml").exists() and not args.resume:
        raise ConfigError(f"{out}: holds a training already; give --resume to go on, or another --out")
    trained = train_asr(config, train, dev, out, args.resume, args.allow_pipes, args.device, _report)
    if distributed.start()[0] == 0:
        _export(trained, config, train, out / "model", args.storage)
        print(f"model: {out / 'model'}")
    return 0


def _report(figures: dict[str, object]) -> None:
    print(json.dumps(figures), flush=True)


def _export(trained: "Trained", config: "AsrConfig", train: "DataDir", folder: Path, storage: "Storage") -> None:
    """Write the model folder with a card that describes the training."""
    from speechmtp.bundle import Bundle, BundleConfig, save_bundle

    hours = sum(train.durations.values()) / 3600
    figures = "\n".join(f"- {name}: {value:.2f}" for name, value in trained.figures.items() if name != "score")
    encoder = f", behind the encoder of {config.encoder_from}" if config.encoder_from else ""
    card = (
        f"# Model card\n\nTrained by `speechmtp train asr` on {len(train)} utterances ({hours:.2f} h), seed "
        f"{config.seed}, phases {', '.join(p.name for p in config.phases)}{encoder}.\n\nDevelopment figures of the "
        f"last phase (error rates of words and tokens in percent, `ctc_`: of the CTC head alone):\n{figures}\n"
    )
    bundle = Bundle(
        BundleConfig(features=config.features, model=trained.model.config, normalizer=config.normalizer),
        trained.model, {config.heads.kind: trained.heads}, card, folder.name,
    )  # fmt: skip
    save_bundle(bundle, folder, storage)
