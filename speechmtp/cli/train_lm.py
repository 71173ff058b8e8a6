"""`train lm`: a causal language model of transformers from plain text"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.cli.options import add_loop_options, add_out_option
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.models.trunk import Trunk
    from speechmtp.training.tasks.lm import LmConfig

CONFIG = "config.yaml"  # the configuration of a training


def add_lm_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp train lm`."""
    parser.add_argument("--text", required=True, metavar="FILE", help="a sentence a line, plain or .gz")
    parser.add_argument("--dev", metavar="FILE", help="to choose checkpoints on (default: the end of --text)")
    add_out_option(parser, "folder of the training; the model is DIR/model")
    parser.add_argument("--config", metavar="YAML", help="training configuration (default: built-in values)")
    parser.add_argument(
        "--tokenizer", metavar="MODEL", help="use the tokenizer of this model folder (default: one is trained)"
    )
    add_loop_options(parser)


def run_lm(args: argparse.Namespace) -> int:
    """Trains the model and writes its folder."""
    from speechmtp.config import load_config
    from speechmtp.training import distributed
    from speechmtp.training.inputs import text_fact, vocabulary_fact
    from speechmtp.training.tasks.asr import pick_precision
    from speechmtp.training.tasks.lm import LmConfig, train_lm

    config = load_config(LmConfig, args.config, args.overrides)
    if args.tokenizer:
        config = replace(config, tokenizer=args.tokenizer)
    out = Path(args.out)
    _check(args, out)
    device = distributed.own_device(args.device)
    rank, _ = distributed.start(device)
    train, dev = _documents(args, config)
    tokenizer = _tokenizer(config, train, out)
    inputs = {"text": text_fact(args.text), "tokenizer": vocabulary_fact(tokenizer)}
    inputs |= {"dev text": text_fact(args.dev)} if args.dev else {}
    if rank == 0:
        _keep(config, tokenizer, inputs, out)
    precision = pick_precision(config.precision, device)
    trunk, figures = train_lm(config, tokenizer, train, dev, out / "training", precision, args.resume, device)
    if rank == 0:
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}), flush=True)
        _write(trunk, tokenizer, _card(args, config, trunk, figures), out / "model")
        print(f"model: {out / 'model'}")
    return 0


def _check(args: argparse.Namespace, out: Path) -> None:
    """Check the options before anything is read, and set device and threads."""
    from speechmtp.cli.checks import check_device

    check_device(args)
    if (out / CONFIG).exists() and not args.resume:
        raise ConfigError(f"{out}: holds a training already; give --resume to go on, or another --out")


def _documents(args: argparse.Namespace, config: "LmConfig") -> tuple[list[str], list[str]]:
    """Read the training and development documents."""
    from speechmtp.training.tasks.lm import read_documents

    train = read_documents(args.text, config.lines)
    if args.dev:
        return train, read_documents(args.dev, config.lines)
    if config.held_out >= len(train):
        raise ConfigError(
            f"{args.text}: {len(train)} documents, held_out {config.held_out}; lower `held_out` or give --dev"
        )
    return train[: -config.held_out], train[-config.held_out :]


def _tokenizer(config: "LmConfig", train: list[str], out: Path) -> Any:
    """The tokenizer that is named, that of the training to resume, or a new one."""
    from speechmtp.training.tasks.lm import load_tokenizer, train_bpe

    if config.tokenizer:
        return load_tokenizer(config.tokenizer)
    kept = out / "tokenizer"
    return load_tokenizer(kept) if (out / CONFIG).exists() else train_bpe(train, config.vocab_size)


def _keep(config: "LmConfig", tokenizer: Any, inputs: Mapping[str, str], out: Path) -> None:
    """Store the tokenizer, then the configuration, whose file marks a training as begun."""
    from speechmtp.training.inputs import keep_inputs

    if not (out / CONFIG).exists():
        tokenizer.save_pretrained(out / "tokenizer")
    keep_inputs(out, CONFIG, config, inputs, ("tokenizer",))


def _write(trunk: "Trunk", tokenizer: Any, card: str, folder: Path) -> None:
    """Write the model as a transformers folder, with its card."""
    from speechmtp.models.quiet import quiet_transformers

    with quiet_transformers():
        trunk.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "card.md").write_text(card, encoding="utf-8")


def _card(args: argparse.Namespace, config: "LmConfig", trunk: "Trunk", figures: dict[str, float]) -> str:
    size = sum(p.numel() for p in trunk.parameters())
    dev = Path(args.dev).name if args.dev else f"the last {config.held_out} documents of it"
    return (
        f"# Model card\n\nCausal language model, {config.model.family}, {size} parameters, {trunk.vocab_size} pieces, "
        f"trained from random weights by `speechmtp train lm` on {Path(args.text).name}: {config.steps} updates of "
        f"{config.rows} x {config.size} tokens, {figures['epochs']:.2f} epochs, seed {config.seed}. Documents of "
        f"{config.lines} lines.\n\nDevelopment figures ({dev}):\n- perplexity a token: {figures['perplexity']:.2f}\n"
        f"- nats a token: {figures['nats']:.3f}\n"
    )
