"""Check options before anything is loaded, so that errors name the options of the command line."""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from speechmtp.batching import ROWS, default_rows
from speechmtp.cli.options import MOST_THREADS, check_options
from speechmtp.collector import paused_collector
from speechmtp.config import Range, Seed
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.api import Recogniser
    from speechmtp.decoding.runner import Runner
    from speechmtp.decoding.strategies import Strategy


@dataclass(frozen=True)
class RunNumbers:
    """The numbers of `add_run_options` and what they may be."""

    batch_size: Annotated[int, Range(1, 4096)] = ROWS
    seed: Seed = 0


def check_device(args: argparse.Namespace) -> None:
    """Check --device and --threads, replace `auto` by the device's name, and set the number of threads."""
    with paused_collector():
        import torch

        from speechmtp.devices import device_problem, find_device

    if not 0 <= args.threads <= MOST_THREADS:
        raise ConfigError(f"--threads {args.threads}: expected 0 (PyTorch's choice) to {MOST_THREADS}")
    if args.device != "auto" and (problem := device_problem(args.device)):
        raise ConfigError(f"--device {args.device}: not available here ({problem})")
    args.device = find_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)


def prepare_run(args: argparse.Namespace) -> None:
    """Check the options of `add_run_options`, find the device, and set threads and random seed."""
    with paused_collector():
        import torch

        from speechmtp.devices import DTYPES, int8_problem

    by_device = args.batch_size is None
    args.batch_size = ROWS if by_device else args.batch_size
    check_options(args, RunNumbers, ("batch_size", "seed"))
    check_device(args)
    args.batch_size = default_rows(args.device) if by_device else args.batch_size
    if args.dtype not in DTYPES:
        raise ConfigError(f"--dtype {args.dtype}: expected one of {', '.join(DTYPES)}")
    if args.drafts == "int8" and (problem := int8_problem(args.device, args.dtype)):
        raise ConfigError(f"--drafts int8: needs a CPU and float32, found {problem}; leave it out")
    check_heads(args.model, args.heads)
    random.seed(args.seed)
    torch.manual_seed(args.seed)


def check_heads(model: str, heads: Sequence[str]) -> None:
    """Raise a ConfigError for a --heads item that is not a head set, and for two of the same name."""
    from speechmtp.heads.folder import own_heads
    from speechmtp.models.locate import locate

    if not heads:
        return
    folder = locate(model)
    own, found = own_heads(folder), dict[str, Path]()
    for item in heads:
        path = own.get(item, Path(item))
        if not path.is_dir():
            names = ", ".join(own) or "none"
            raise ConfigError(f"--heads {item}: neither a head set of {folder} nor a folder; the model's own: {names}")
        if not (path / "config.yaml").exists():
            raise ConfigError(
                f"--heads {item}: config.yaml is missing; give a head folder, with config.yaml and heads.safetensors"
            )
        name = item if item in own else path.resolve().name
        if name in found:
            raise ConfigError(f"--heads {item}: {path} has the name of {found[name]}; rename one of the two folders")
        found[name] = path


def check_text_options(args: argparse.Namespace) -> None:
    """Check the options of `add_text_options` and DATA against the kind of --model."""
    from speechmtp.bundle import reads_text
    from speechmtp.evaluation.evaluation_sets import check_data
    from speechmtp.evaluation.settings import EvaluationSettings

    text = reads_text(args.model)
    check_data(args.model, [args.data], text)
    given = (args.prompt_tokens, args.max_new_tokens)
    if not text and given != (None, None):
        raise ConfigError(
            f"--prompt-tokens, --max-new-tokens: for text LMs, and {args.model} is a speech model; leave them out"
        )
    check_options(args, EvaluationSettings, ("prompt_tokens", "max_new_tokens"))


def check_strategies(
    strategies: Sequence["Strategy"], runner: "Runner", with_references: bool = False, with_ctc: bool = True,
    with_previous: bool = False,
) -> list["Strategy"]:  # fmt: skip
    """Prepare strategies for the model; ConfigError for those that it cannot run, before any audio is read."""
    from speechmtp.evaluation.selection import prepare_strategies

    for strategy in strategies:
        if "reference" in strategy.needs and not with_references:
            raise ConfigError(f"strategy {strategy.name}: needs `ar`'s output first; use speechmtp compare")
        if "model" in strategy.needs and runner.draft is None:
            raise ConfigError(f"strategy {strategy.name}: needs a draft model; give one with --draft-model")
        if "heads" in strategy.needs and strategy.preset is None and not runner.heads:
            raise ConfigError(
                f"strategy {strategy.name}: heads: the model has no heads; give a head folder with --heads, or another "
                f"strategy"
            )
        if strategy.heads and runner.heads and strategy.heads not in runner.heads:
            raise ConfigError(
                f"strategy {strategy.name}: heads {strategy.heads!r}: not among those loaded, "
                f"{', '.join(runner.heads)}; name it or give its folder with --heads"
            )
    return prepare_strategies(strategies, runner, with_ctc, with_references, with_previous)


def open_recogniser(args: argparse.Namespace) -> "Recogniser":
    """Load the model that the options name, after checking them and setting threads and seed."""
    prepare_run(args)
    from speechmtp.api import load

    draft, stale = getattr(args, "draft_model", ""), args.allow_stale_heads
    with paused_collector():
        return load(args.model, args.device, args.dtype, args.heads, stale, draft, args.ctc, args.drafts)
