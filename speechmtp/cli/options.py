"""Options that several verbs share, and what they mean."""

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.api import Heard, Recogniser
    from speechmtp.data.kaldi import DataDir
    from speechmtp.decoding.strategies import Strategy


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """--batch-size, --device, --dtype, --seed, --threads."""
    parser.add_argument("--batch-size", type=int, default=1, metavar="B", help="rows decoded together (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--dtype", default="float32", help="float32 (default), bfloat16, float16 or float64")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: PyTorch's choice)")


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


def open_recogniser(args: argparse.Namespace) -> "Recogniser":
    """The model that the options ask for, with threads and seed set."""
    import torch

    from speechmtp.api import load

    if args.batch_size < 1:
        raise ConfigError(f"--batch-size {args.batch_size}: expected 1 or more")
    if args.threads < 0:
        raise ConfigError(f"--threads {args.threads}: expected 0 or more")
    if args.threads:
        torch.set_num_threads(args.threads)
    check_device(args.device)
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    return load(args.model, args.device, args.dtype)


def check_strategies(strategies: Sequence["Strategy"], recogniser: "Recogniser", with_references: bool = False) -> None:
    """Refuse now what the model cannot do, before any audio is read."""
    for strategy in strategies:
        drafter = strategy.drafter
        if drafter is not None and drafter.source == "reference" and not with_references:
            raise ConfigError(f"strategy {strategy.name}: needs `ar`'s output first; use speechmtp compare")
        if drafter is None or not drafter.heads:
            continue
        if recogniser.heads is None:
            raise ConfigError(f"strategy {strategy.name}: the model has no heads; choose another strategy")
        depth = strategy.options["depth"]
        if depth > recogniser.heads.depth:
            raise ConfigError(
                f"strategy {strategy.name}: depth={depth}, expected at most {recogniser.heads.depth}, the heads' depth"
            )


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
