"""`train asr --model`: a pretrained recogniser fine-tuned on Kaldi data directories"""

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.errors import ConfigError
from speechmtp.models.bases.names import ENCODER_DECODER_MODEL

if TYPE_CHECKING:
    from speechmtp.bundle import Bundle
    from speechmtp.training.tasks.finetune_data import DevSet, FinetuneConfig, Pool


def add_finetune_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp train asr` that fine-tune a model."""
    parser.add_argument("--model", metavar="MODEL",
                        help=f"fine-tune this instead: {ENCODER_DECODER_MODEL}")  # fmt: skip
    parser.add_argument("--keep", metavar="DATA", help="with --model: audio on which it is to say what it says now")
    parser.add_argument("--prompts", metavar="FILE",
                        help="with --model: store what the encoder gives here, for a next run")  # fmt: skip


def run_finetune(args: argparse.Namespace) -> int:
    """Trains the model and writes EXP/model."""
    import torch

    from speechmtp.bundle import load_without_heads
    from speechmtp.cli.train_heads import TRAIN, check_training, data_facts
    from speechmtp.config import load_config
    from speechmtp.models.bases.table import expect
    from speechmtp.training import distributed
    from speechmtp.training.inputs import check_inputs, keep_inputs
    from speechmtp.training.tasks.asr import pick_precision
    from speechmtp.training.tasks.finetune import finetune
    from speechmtp.training.tasks.finetune_data import FinetuneConfig

    config = load_config(FinetuneConfig, args.config, args.overrides)
    if args.check:
        print(f"{args.config or 'train asr'}: parts {config.parts}, {config.steps} updates")
        return 0
    check_training(args)
    out, target = Path(args.out), distributed.own_device(args.device)
    rank, _ = distributed.start(target)
    bundle = load_without_heads(args.model).to(target, torch.float32)
    expect(bundle.model, "encoder_outputs")
    roles = {"train data": args.train, **({"kept data": args.keep} if args.keep else {})}
    roles |= {f"dev data {n}": name for n, name in enumerate(args.dev, 1)}
    inputs = data_facts(args, bundle, roles)
    check_inputs(out, TRAIN, config, inputs)
    pools, dev = _data(args, config, bundle)
    if rank == 0:
        keep_inputs(out, TRAIN, config, inputs)
        names = ("train", "keep")
        print(
            json.dumps({n: p.size for n, p in zip(names, pools)} | {"dropped": [d for p in pools for d in p.dropped]})
        )
    precision = pick_precision(config.precision, target)
    before, after = finetune(config, bundle, pools, dev, precision, out / "training", args.resume)
    if rank == 0:
        _write(args, config, bundle, before, after)
    return 0


def _data(
    args: argparse.Namespace, config: "FinetuneConfig", bundle: "Bundle"
) -> tuple[list["Pool"], list["DevSet"]]:  # fmt: skip
    """Read and encode the training data, the data whose output is kept, and the development sets."""
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.progress import counter
    from speechmtp.training.tasks.finetune_data import make_dev, make_pool

    def read(folder: str, need_text: bool = True):  # type: ignore[no-untyped-def]
        return read_data_dir(folder, args.root, need_text, args.allow_pipes)

    def file(name: str) -> Path | None:
        path = Path(args.prompts) if args.prompts else None
        return None if path is None else path.with_name(f"{name}{path.name}")

    train, devs = read(args.train), [read(folder) for folder in args.dev]
    kept = read(args.keep, need_text=False) if args.keep else None
    rows = round(config.keep_share * config.rows) if kept is not None else 0
    if kept is not None and not 0 < rows < config.rows:
        share = f"keep_share {config.keep_share} of {config.rows} rows"
        raise ConfigError(f"finetune: {share} is {rows}, expected 1 or more of both kinds; change rows or share")
    with counter("audio") as note:
        dev = [
            make_dev(bundle, d, config, file(f"dev{n}_" if n > 1 else "dev_"), args.allow_pipes, note)
            for n, d in enumerate(devs, 1)
        ]
        pools = [make_pool(bundle, train, config, False, config.rows - rows, file(""), args.allow_pipes, note)]
        if kept is not None:
            pools.append(make_pool(bundle, kept, config, True, rows, file("keep_"), args.allow_pipes, note))
    return pools, dev


def _write(
    args: argparse.Namespace, config: "FinetuneConfig", bundle: "Bundle", before: dict[str, float],
    after: dict[str, float],
) -> None:  # fmt: skip
    """Write the model folder, print its figures and the command that trains heads for it."""
    from speechmtp.bundle import save_bundle

    folder = Path(args.out) / "model"
    names = [Path(d).name for d in args.dev]
    lines = "\n".join(
        f"- {name}: {before[key]:.2f} before, {after[key]:.2f} after"
        for key, name in zip((k for k in after if k != "score"), names)
    )
    keep = f", {Path(args.keep).name} held to what it said" if args.keep else ""
    card = (
        f"# Fine-tuning\n\n`speechmtp train asr --model`: {bundle.name}, {config.parts}, on {Path(args.train).name}"
        f"{keep}, {config.steps} updates of {config.rows} rows, seed {config.seed}.\n\nWord error rates in percent on "
        f"development data:\n{lines}\n"
    )
    bundle.card, bundle.name = f"{bundle.card.rstrip()}\n\n{card}".lstrip(), folder.name
    save_bundle(bundle, folder, args.storage)
    print(json.dumps({name: round(value, 3) for name, value in after.items()}), flush=True)
    print(f"model: {folder}")
    words = ["--model", str(folder), "--family", "chain", "--train", args.train, "--dev", args.dev[0]]
    print(f"its heads: speechmtp train heads {shlex.join([*words, '--out', str(folder / 'heads' / 'chain')])}")
