"""`train heads`: multi-token heads for a model folder"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.cli.options import add_model_option, add_out_option, add_training_options
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.bundle import Bundle
    from speechmtp.evaluation.held_out import HeldOut
    from speechmtp.heads.contract import HeadSet
    from speechmtp.training.tasks.head_data import HeadData
    from speechmtp.training.tasks.heads import HeadsTrainConfig

TRAIN = "train.yaml"  # the configuration of a training of heads, of a CTC head or of a fine-tuning


def add_heads_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp train heads`."""
    add_model_option(parser, required=True)
    parser.add_argument("--family", metavar="KIND",
                        help="family of heads, such as chain (default: the configuration's)")  # fmt: skip
    parser.add_argument("--depth", type=int, metavar="D", help="tokens drafted a call (default: the configuration's)")
    add_out_option(parser, "head folder; where the trunk is trained too, the model is DIR/model")
    parser.add_argument("--config", metavar="YAML", help="training configuration (default: built-in values)")
    parser.add_argument("--train", action="append", default=[], metavar="DATA",
                        help="Kaldi data directory; for a text LM a text file, repeatable")  # fmt: skip
    parser.add_argument("--dev", action="append", default=[], metavar="DATA", help="the same, to choose checkpoints on")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="store audio prompts (of a pretrained recogniser: encoder outputs) here, for the next heads of this model",
    )
    parser.add_argument("--start", metavar="DIR", help="begin with the weights of these heads, of the same sizes")
    add_training_options(parser)


def run_heads(args: argparse.Namespace) -> int:
    """Trains the heads and writes their folder."""
    import torch

    from speechmtp.bundle import load_without_heads
    from speechmtp.heads.folder import start_heads
    from speechmtp.heads.table import build_heads
    from speechmtp.training import distributed
    from speechmtp.training.inputs import check_inputs, folder_facts, keep_inputs
    from speechmtp.training.tasks.asr import pick_precision
    from speechmtp.training.tasks.heads import likely_tokens, train_heads

    config = read_heads_config(args)
    check_training(args)
    out = Path(args.out)
    target = distributed.own_device(args.device)
    rank, _ = distributed.start(target)
    base = load_without_heads(args.model).to(target, torch.float32)
    config = _as_drawn(config, base)
    _check_data(args, base)
    inputs = {**_facts(args, base), **(folder_facts("start", Path(args.start)) if args.start else {})}
    check_inputs(out, TRAIN, config, inputs)
    trunk = base.model.trunk
    torch.manual_seed(config.seed)
    heads = build_heads(config.heads, trunk.shape).to(target)  # before any audio is encoded, so that errors come early
    data, dev = _data(args, config, base)
    if heads.shortlist is not None:
        ids = likely_tokens(data.tokens(), len(heads.shortlist), heads.shape.vocab_size, list(dev.rules.eos))
        heads.shortlist.copy_(ids)
    heads.start_from(trunk)
    if args.start:
        start_heads(heads, Path(args.start))
    if rank == 0:
        keep_inputs(out, TRAIN, config, inputs)
    figures = train_heads(
        config, trunk, heads, data, dev.figures, pick_precision(config.precision, target), out / "training", args.resume
    )  # fmt: skip
    if rank == 0:
        _write(args, base, heads, config, figures, out)
    return 0


def _as_drawn(config: "HeadsTrainConfig", base: "Bundle") -> "HeadsTrainConfig":
    """The configuration, with a loss of the law that a model with sampling of its own draws its tokens from."""
    from dataclasses import replace

    sampling = base.config.sampling
    if sampling is None or sampling.temperature == 0:
        return config
    return replace(config, loss=replace(config.loss, temperature=sampling.temperature, top_k=sampling.top_k))


def check_training(args: argparse.Namespace) -> None:
    """Check the options before anything is loaded, and set device and threads. ConfigError without --train or --dev,
    and for an --out folder that holds a training (without --resume), a model or heads."""
    from speechmtp.cli.checks import check_device

    check_device(args)
    if not args.train or not args.dev:
        raise ConfigError(
            f"train {args.kind}: --train and --dev are needed; heads are chosen on data they were not trained on"
        )
    out = Path(args.out)
    begun = (out / TRAIN).exists()
    if begun and not args.resume:
        raise ConfigError(f"{out}: holds a training already; give --resume to go on, or another --out")
    if not begun and any((out / name).exists() for name in ("config.yaml", "config.json")):
        raise ConfigError(f"{out}: holds a model or heads that would be written over; give another --out")


def read_heads_config(args: argparse.Namespace) -> "HeadsTrainConfig":
    """Read the configuration file and apply --family, --depth and overrides; ConfigError for an unknown family."""
    from speechmtp.config import from_dict, read_yaml, with_overrides
    from speechmtp.heads.table import FAMILIES
    from speechmtp.training.tasks.heads import HeadsTrainConfig

    data: dict[str, Any] = read_yaml(args.config) if args.config else {}
    where = args.config or "train heads"
    heads = data.setdefault("heads", {})
    if not isinstance(heads, dict):
        raise ConfigError(f"{where}: heads: a group of keys is expected, found {heads!r}")
    heads.setdefault("kind", args.family or "chain")
    if args.family is not None:
        kinds = [str(kind.__dataclass_fields__["kind"].default) for kind in FAMILIES]
        if args.family not in kinds:
            raise ConfigError(f"--family {args.family}: no such family; one of {', '.join(kinds)}")
        if args.family != heads["kind"]:  # drop the options of the other family
            heads = data["heads"] = {"kind": args.family, **({"depth": heads["depth"]} if "depth" in heads else {})}
    if args.depth is not None:
        heads["depth"] = args.depth
    return from_dict(HeadsTrainConfig, with_overrides(data, args.overrides), where)


def _check_data(args: argparse.Namespace, base: "Bundle") -> None:
    """Check --train, --dev and --prompts against the kind of model."""
    from speechmtp.evaluation.evaluation_sets import check_data

    reads_text = base.model.input_kind == "texts"
    check_data(args.model, [*args.train, *args.dev], reads_text)
    if reads_text and args.prompts:
        raise ConfigError(f"--prompts {args.prompts}: prompts are of audio, {base.name} reads text; leave it out")
    if not reads_text and max(len(args.train), len(args.dev)) > 1:
        raise ConfigError("train heads: one --train and one --dev data directory expected; join them with data combine")


def _data(args: argparse.Namespace, config: "HeadsTrainConfig", base: "Bundle") -> tuple["HeadData", "HeldOut"]:
    """Read the training data and the development set."""
    from speechmtp.progress import counter
    from speechmtp.training.tasks.head_inputs.contract import HeadInputs
    from speechmtp.training.tasks.head_inputs.table import make_head_input

    prompts = Path(args.prompts) if args.prompts else None
    asked = HeadInputs(base, config, args.train, args.dev, args.root, prompts, args.allow_pipes)
    with counter("audio") as note:
        return make_head_input(asked, note)


def _facts(args: argparse.Namespace, base: "Bundle") -> dict[str, str]:
    """The facts that the training depends on: digests of the model, the training data and the development set."""
    from speechmtp.training.inputs import folder_facts, text_fact

    sets = [("train", args.train), ("dev", args.dev)]
    if base.model.input_kind == "texts":
        texts = {f"{role} text {n}": text_fact(name) for role, names in sets for n, name in enumerate(names, 1)}
        return {**folder_facts("model", base.folder), **texts}
    return data_facts(args, base, {f"{role} data": name for role, names in sets for name in names})


def data_facts(args: argparse.Namespace, base: "Bundle", data: Mapping[str, str]) -> dict[str, str]:
    """The facts of a model and of Kaldi data directories, given by role."""
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.training.inputs import data_fact, folder_facts

    found = {
        role: data_fact(read_data_dir(name, args.root, need_text=False, allow_pipes=args.allow_pipes))
        for role, name in data.items()
    }
    return {**folder_facts("model", base.folder), **found}


def _write(
    args: argparse.Namespace, base: "Bundle", heads: "HeadSet", config: "HeadsTrainConfig",
    figures: dict[str, float], out: Path,
) -> None:  # fmt: skip
    """Write the head folder or, if the trunk was trained too, a whole model folder."""
    from speechmtp.bundle import WEIGHTS, save_bundle
    from speechmtp.heads.folder import save_heads, trunk_digest, trunk_settings
    from speechmtp.models.storage import file_digest

    card = _card(args, heads, config, figures)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}), flush=True)
    if config.mode == "frozen":
        digests = trunk_digest(base.model), file_digest(base.folder / WEIGHTS)
        save_heads(heads, out, base.name, digests[0], args.storage, card, digests[1], trunk_settings(base.model))
        print(f"heads: {out}")
        return
    folder = out / "model"
    base.heads, base.name = {config.heads.kind: heads}, folder.name
    base.card = f"{base.card.rstrip()}\n\n{card}".lstrip()
    save_bundle(base, folder, args.storage)
    print(f"model: {folder}")


def _card(
    args: argparse.Namespace, heads: "HeadSet", config: "HeadsTrainConfig", figures: dict[str, float]
) -> str:  # fmt: skip
    sizes = sum(p.numel() for p in heads.parameters())
    lines = "\n".join(f"- {name}: {value:.2f}" for name, value in figures.items() if name != "score")
    train, dev = (", ".join(Path(d).name for d in names) for names in (args.train, args.dev))
    return (
        f"# Head card\n\nFamily {config.heads.kind}, depth {heads.depth}, {sizes} parameters, trained by `speechmtp "
        f"train heads` on {train} for {config.steps} updates, mode {config.mode}, targets {config.targets}, seed "
        f"{config.seed}.\n\nDevelopment figures ({dev}; tokens per call predicted for `verify` at full depth, share of "
        f"the ceiling in percent):\n{lines}\n"
    )
