"""Options that several verbs share, and what they mean."""

import argparse
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.collector import paused_collector
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.api import Recogniser
    from speechmtp.data.kaldi import DataDir
    from speechmtp.decoding.runner import Runner
    from speechmtp.decoding.sampling import SamplingConfig
    from speechmtp.decoding.strategies import Strategy
    from speechmtp.types import Request


PROMPT_TOKENS, MAX_NEW_TOKENS = 32, 32  # tokens of a text that a text LM goes on behind, and that it may add


def add_run_options(parser: argparse.ArgumentParser, batch_size: int = 1) -> None:
    """--heads, --ctc, --allow-stale-heads, --batch-size, --device, --dtype, --seed, --threads."""
    add_head_options(parser)
    parser.add_argument("--ctc", metavar="DIR", default="", help="a CTC draft head (default: the model's own `ctc/`)")
    parser.add_argument("--drafts", choices=("float32", "int8"), default="",
                        help="how heads compute: int8 is fast on a CPU (default: as the model says)")  # fmt: skip
    parser.add_argument("--allow-stale-heads", action="store_true", help="use heads that were trained on another trunk")
    parser.add_argument("--batch-size", type=int, default=batch_size, metavar="B",
                        help="rows decoded together (default %(default)s)")  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto (default: a GPU where there is one), cpu, cuda:1, ...")
    parser.add_argument("--dtype", default="float32", help="float32 (default), bfloat16, float16 or float64")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: PyTorch's choice)")


def add_head_options(parser: argparse.ArgumentParser) -> None:
    """--heads."""
    parser.add_argument("--heads", action="append", metavar="NAME|DIR", default=[],
                        help="a head set of the model, or a head folder; may be repeated, the first is the default "
                        "(without it: all of the model's own)")  # fmt: skip


def add_draft_options(parser: argparse.ArgumentParser) -> None:
    """--draft-model."""
    parser.add_argument("--draft-model", metavar="DIR", default="",
                        help="a smaller model of the same vocabulary, for strategies that draft with one")  # fmt: skip


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """--temperature, --top-k, --top-p, --min-p, --repetition-penalty, --no-repeat-ngram-size, as in transformers."""
    for name, kind, default, shown, text in (
        ("temperature", float, 0.0, "T", "0 takes the likeliest token (default); else tokens are drawn, by --seed"),
        ("top-k", int, 0, "K", "draw among the K likeliest (default: all)"),
        ("top-p", float, 1.0, "P", "draw among the likeliest that have P together (default 1)"),
        ("min-p", float, 0.0, "P", "draw among those with P times the likeliest one's probability (default 0)"),
        ("repetition-penalty", float, 1.0, "R", "above 1: tokens said before are made less likely (default 1)"),
        ("no-repeat-ngram-size", int, 0, "N", "say no run of N tokens twice (default: may)"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, metavar=shown, help=text)


def sampling_names() -> tuple[str, ...]:
    """What `add_sampling_options` adds, as attributes."""
    return ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size")


def sampling_of(args: argparse.Namespace) -> "SamplingConfig":
    """What the options of `add_sampling_options` and --seed say."""
    from speechmtp.decoding.sampling import SamplingConfig

    return SamplingConfig(**{name: getattr(args, name) for name in sampling_names()}, seed=args.seed)


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """--prompt-tokens, --max-new-tokens."""
    parser.add_argument("--prompt-tokens", type=int, metavar="N",
                        help=f"text LM: tokens of each text that are given (default {PROMPT_TOKENS})")  # fmt: skip
    parser.add_argument("--max-new-tokens", type=int, metavar="N",
                        help=f"text LM: tokens that it may add (default {MAX_NEW_TOKENS})")  # fmt: skip


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--root, --allow-pipes."""
    parser.add_argument("--root", metavar="DIR", help="root of relative audio paths (default: SPEECHMTP_CORPORA)")
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands of wav.scp")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """--resume, --device, --threads, --storage, key=value, and those of `add_data_options`: of draft heads."""
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run stopped")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--storage", choices=("float32", "int8"), default="float32", help="how weights are stored")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="configuration values that win over the file's"
    )
    add_data_options(parser)


def add_speech_options(parser: argparse.ArgumentParser) -> None:
    """--language, --task."""
    parser.add_argument("--language", metavar="CODE", default="",
                        help="of a multilingual model: what is spoken, such as de (default: its folder's)")  # fmt: skip
    parser.add_argument("--task", choices=("transcribe", "translate"), default="",
                        help="of a multilingual model: translate is into English (default: its folder's)")  # fmt: skip


def check_data(model: str, data: Sequence[str], reads_text: bool) -> None:
    """Refuse a text file given to a speech model, and a folder given to a model that reads text."""
    for name in data:
        if not reads_text and Path(name).is_file():
            raise ConfigError(f"{name}: a file, and {model} is a speech model; give a Kaldi data directory")
        if reads_text and Path(name).is_dir():
            raise ConfigError(f"{name}: a folder, and {model} is a text LM; give a text file, a text a line")


def prepare_run(args: argparse.Namespace) -> None:
    """Check the options of `add_run_options`, find the device, and set threads and seed."""
    with paused_collector():
        import torch

        from speechmtp.api import chosen_device

    if args.batch_size < 1:
        raise ConfigError(f"--batch-size {args.batch_size}: expected 1 or more")
    if args.threads < 0:
        raise ConfigError(f"--threads {args.threads}: expected 0 or more")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.device = chosen_device(args.device)
    random.seed(args.seed)
    torch.manual_seed(args.seed)


def open_recogniser(args: argparse.Namespace) -> "Recogniser":
    """The model that the options ask for, with threads and seed set."""
    from speechmtp.api import load

    prepare_run(args)
    draft = getattr(args, "draft_model", "")
    return load(args.model, args.device, args.dtype, args.heads, args.allow_stale_heads, draft, args.ctc, args.drafts)


def check_strategies(
    strategies: Sequence["Strategy"], runner: "Runner", with_references: bool = False, with_ctc: bool = True,
    with_previous: bool = False,
) -> list["Strategy"]:  # fmt: skip
    """Refuse now what the model cannot do, before any audio is read; drafts of a length that nobody chose are made
    as long as the heads can."""
    for strategy in strategies:
        if "reference" in strategy.needs and not with_references:
            raise ConfigError(f"strategy {strategy.name}: needs `ar`'s output first; use speechmtp compare")
        if "ctc" in strategy.needs and not with_ctc:
            raise ConfigError(f"strategy {strategy.name}: needs a CTC head, and the model has none; choose another")
        if "previous" in strategy.needs and not with_previous:
            raise ConfigError(f"strategy {strategy.name}: needs a pass before over the same audio; choose another")
    return [runner.prepared(strategy) for strategy in strategies]


def noise_key_of(name: str) -> int:
    """What an utterance's noise is named by: the same in every set, batch and job that it is decoded in."""
    return zlib.crc32(name.encode())


def listen_all(
    recogniser: "Recogniser", data: "DataDir", allow_pipes: bool, label: str = "listening", language: str = "",
    task: str = "",
) -> tuple[dict[str, "Request"], float]:  # fmt: skip
    """Every utterance through features and encoder, alone, with noise of its own name; and the seconds from audio file
    to prompt."""
    import time
    from dataclasses import replace

    from speechmtp.progress import track

    requests: dict[str, Request] = {}
    began = time.perf_counter()
    for utterance in track(data.utterances, label):
        audio = utterance.load(recogniser.rate, allow_pipes)
        request = recogniser.listen(audio, f"{data.path}/{utterance.origin}: {utterance.id}", language, task)
        requests[utterance.id] = replace(request, noise_key=noise_key_of(utterance.id))
    return requests, time.perf_counter() - began


def batches(names: Sequence[str], requests: Mapping[str, "Request"], size: int) -> Iterator[list[str]]:
    """Utterances by the size of their prompts, `size` at a time."""
    ordered = sorted(names, key=lambda name: (requests[name].size, name))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
