"""Options that several verbs share, and what they mean."""

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.api import Heard, Recogniser
    from speechmtp.data.kaldi import DataDir
    from speechmtp.decoding.strategies import Strategy


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """--heads, --allow-stale-heads, --batch-size, --device, --dtype, --seed, --threads."""
    add_head_options(parser)
    parser.add_argument("--allow-stale-heads", action="store_true", help="use heads that were trained on another trunk")
    parser.add_argument("--batch-size", type=int, default=1, metavar="B", help="rows decoded together (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--dtype", default="float32", help="float32 (default), bfloat16, float16 or float64")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: PyTorch's choice)")


def add_head_options(parser: argparse.ArgumentParser) -> None:
    """--heads."""
    parser.add_argument("--heads", action="append", metavar="NAME|DIR", default=[],
                        help="a head set of the model, or a head folder; may be repeated, the first is the default "
                        "(without it: all of the model's own)")  # fmt: skip


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--root, --allow-pipes."""
    parser.add_argument("--root", metavar="DIR", help="root of relative audio paths (default: SPEECHMTP_CORPORA)")
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands of wav.scp")


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have, in one line."""
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error


def check_kind(model: str, data: Sequence[str], speech: bool) -> None:
    """Refuse a text file given to a speech model, and a folder given to a causal LM."""
    for name in data:
        if speech and Path(name).is_file():
            raise ConfigError(f"{name}: a file, and {model} is a speech model; give a Kaldi data directory")
        if not speech and Path(name).is_dir():
            raise ConfigError(f"{name}: a folder, and {model} is a causal LM; give a text file, a text a line")


def prepare_run(args: argparse.Namespace) -> None:
    """Check the options of `add_run_options`, and set threads and seed."""
    import torch

    if args.batch_size < 1:
        raise ConfigError(f"--batch-size {args.batch_size}: expected 1 or more")
    if args.threads < 0:
        raise ConfigError(f"--threads {args.threads}: expected 0 or more")
    if args.threads:
        torch.set_num_threads(args.threads)
    check_device(args.device)
    random.seed(args.seed)
    torch.manual_seed(args.seed)


def open_recogniser(args: argparse.Namespace) -> "Recogniser":
    """The model that the options ask for, with threads and seed set."""
    from speechmtp.api import load

    prepare_run(args)
    return load(args.model, args.device, args.dtype, args.heads, args.allow_stale_heads)


def check_strategies(
    strategies: Sequence["Strategy"], recogniser: "Recogniser", with_references: bool = False
) -> list["Strategy"]:
    """Refuse now what the model cannot do, before any audio is read; drafts of a length that nobody chose are made
    as long as the heads can."""
    fitted = []
    for strategy in strategies:
        drafter = strategy.drafter
        if drafter is not None and drafter.source == "reference" and not with_references:
            raise ConfigError(f"strategy {strategy.name}: needs `ar`'s output first; use speechmtp compare")
        if drafter is not None and drafter.heads:
            try:
                heads = recogniser.heads_named(strategy.heads)
            except ConfigError as error:
                raise ConfigError(f"strategy {strategy.name}: {error}") from None
            strategy = strategy.fitted(heads.depth)
            depth = strategy.options["depth"]
            if depth > heads.depth:
                raise ConfigError(
                    f"strategy {strategy.name}: depth={depth}, expected at most {heads.depth}, the heads' depth; "
                    f"give depth={heads.depth}"
                )
        fitted.append(strategy)
    return fitted


def hear_all(
    recogniser: "Recogniser", data: "DataDir", allow_pipes: bool, label: str = "hearing"
) -> tuple[dict[str, "Heard"], float]:
    """Every utterance through features and encoder, alone; and the seconds from audio file to prompt."""
    import time

    from speechmtp.cli.progress import track

    heard: dict[str, Heard] = {}
    began = time.perf_counter()
    for utterance in track(data.utterances, label):
        audio = utterance.load(recogniser.rate, allow_pipes)
        heard[utterance.id] = recogniser.hear(audio, f"{data.path}/{utterance.origin}: {utterance.id}")
    return heard, time.perf_counter() - began


def batches(names: Sequence[str], heard: Mapping[str, "Heard"], size: int) -> Iterator[list[str]]:
    """Utterances by prompt length, `size` at a time."""
    ordered = sorted(names, key=lambda name: (int(heard[name].prompt.lengths[0]), name))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
