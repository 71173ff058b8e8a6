"""Options that several verbs share. Imports nothing heavy, so that --help is fast."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from speechmtp.batching import ROWS, ROWS_ON_CPU
from speechmtp.cores import cores
from speechmtp.errors import ConfigError
from speechmtp.evaluation.settings import MAX_NEW_TOKENS, PROMPT_TOKENS
from speechmtp.models.bases.names import MODEL

if TYPE_CHECKING:
    from speechmtp.decoding.sampling import SamplingConfig
    from speechmtp.evaluation.settings import EvaluationSettings


MOST_THREADS = 1024  # many more end the process where the system refuses them


def add_model_option(parser: argparse.ArgumentParser, accepted: str = MODEL, required: bool = False) -> None:
    """Add --model; its default is `default` unless it is required."""
    text = accepted if required else f"{accepted}; without it default"
    parser.add_argument("--model", metavar="MODEL", default=None if required else "default", required=required,
                        help=text)  # fmt: skip


def add_data_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add DATA, the data that a verb reads."""
    parser.add_argument("data", metavar="DATA", help=text)


def add_out_option(parser: argparse.ArgumentParser, text: str, required: bool = True) -> None:
    """Add --out, the folder that a verb writes."""
    parser.add_argument("--out", required=required, metavar="DIR", help=text)


def add_run_options(parser: argparse.ArgumentParser, batch_size: int | None = 1) -> None:
    """Add --heads, --ctc, --drafts, --allow-stale-heads, --batch-size, --device, --threads, --dtype, --seed.
    Without a `batch_size` its default depends on the device."""
    add_loading_options(parser)
    parser.add_argument("--batch-size", type=int, default=batch_size, metavar="B",
                        help="rows decoded together (default "
                        f"{batch_size or f'{ROWS_ON_CPU} on a CPU, else {ROWS}'})")  # fmt: skip


def add_loading_options(parser: argparse.ArgumentParser, listens: bool = True) -> None:
    """Add the options of `add_run_options` but --batch-size, and --ctc only for a model that `listens`."""
    add_head_options(parser)
    if listens:
        add_ctc_option(parser, "a CTC draft head (default: the model's own `ctc/`)")
    parser.add_argument("--drafts", choices=("float32", "int8"), default="",
                        help="how heads compute: int8 is fast on a CPU (default: as the model says)")  # fmt: skip
    parser.add_argument("--allow-stale-heads", action="store_true", help="use heads that were trained on another trunk")
    add_device_options(parser)
    parser.add_argument("--dtype", default="float32", help="float32 (default), bfloat16, float16 or float64")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add --device and --threads."""
    parser.add_argument("--device", default="auto", help="auto (default: a GPU where there is one), cpu, cuda:1, ...")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: PyTorch's choice)")


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """Add --jobs, and say what --threads means beside it."""
    parser.add_argument("--jobs", type=int, metavar="N",
                        help="worker threads (default: one for each core that the process may use, or each --threads "
                        "of them; on a GPU always one)")  # fmt: skip
    [threads] = [action for action in parser._actions if action.dest == "threads"]
    threads.help = "arithmetic threads of each worker (default 1)"


def settle_jobs(args: argparse.Namespace, processes: int = 1) -> None:
    """Check --jobs and --threads and put numbers in the place of their defaults, for one of `processes` on this
    machine."""
    most = MOST_THREADS
    if not 0 <= args.threads <= most:
        raise ConfigError(f"--threads {args.threads}: expected 0 (the default) to {most}")
    if args.jobs is not None and not 1 <= args.jobs <= most:
        raise ConfigError(f"--jobs {args.jobs}: expected 1 to {most}; without it one for each core")
    args.threads = args.threads or 1
    args.jobs = args.jobs or max(1, cores() // (processes * args.threads))


def add_live_options(parser: argparse.ArgumentParser) -> None:
    """Add --stream, --mic, --step and --rate."""
    parser.add_argument("--stream", action="store_true",
                        help="show words of FILE, or of - while it comes, as soon as they are certain")  # fmt: skip
    parser.add_argument("--mic", action="store_true", help="the same of the microphone")
    parser.add_argument("--step", type=float, metavar="S",
                        help="live: seconds of audio between passes (default 0.5)")  # fmt: skip
    parser.add_argument("--rate", type=int, metavar="HZ",
                        help="live: FILE has 16-bit samples of one channel at this rate, and no header")  # fmt: skip


def add_head_options(parser: argparse.ArgumentParser) -> None:
    """Add --heads."""
    parser.add_argument("--heads", action="append", metavar="NAME|DIR", default=[],
                        help="a head set of the model, or a head folder; may be repeated, the first is the default "
                        "(without it: all of the model's own)")  # fmt: skip


def add_ctc_option(parser: argparse.ArgumentParser, text: str) -> None:
    """Add --ctc."""
    parser.add_argument("--ctc", metavar="DIR", default="", help=text)


def add_draft_options(parser: argparse.ArgumentParser) -> None:
    """Add --draft-model."""
    parser.add_argument("--draft-model", metavar="MODEL", default="",
                        help="a smaller model of the same vocabulary, for strategies that draft with one")  # fmt: skip


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add --temperature, --top-k, --top-p, --min-p, --repetition-penalty and --no-repeat-ngram-size, with the meaning
    that they have in transformers."""
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
    """Attribute names of the options of `add_sampling_options`."""
    return ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size")


def sampling_of(args: argparse.Namespace) -> "SamplingConfig":
    """The sampling configuration given by the options of `add_sampling_options` and --seed; ConfigError for a value out
    of range."""
    from speechmtp.decoding.sampling import SamplingConfig

    names = (*sampling_names(), "seed")
    check_options(args, SamplingConfig, names)
    return SamplingConfig(**{name: getattr(args, name) for name in names})


def check_options(args: argparse.Namespace, kind: type, names: Sequence[str]) -> None:
    """Raise a ConfigError for an option whose value the field of its name in the dataclass `kind` may not have."""
    from speechmtp.config import allowed_values, allows

    for name in names:
        if not allows(kind, name, value := getattr(args, name)):
            raise ConfigError(f"--{name.replace('_', '-')} {value}: expected {allowed_values(kind, name)}")


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Add --prompt-tokens and --max-new-tokens."""
    parser.add_argument("--prompt-tokens", type=int, metavar="N",
                        help=f"text LM: tokens of each text that are given (default {PROMPT_TOKENS})")  # fmt: skip
    parser.add_argument("--max-new-tokens", type=int, metavar="N",
                        help=f"text LM: tokens that it may add (default {MAX_NEW_TOKENS})")  # fmt: skip


def add_strategy_options(parser: argparse.ArgumentParser) -> None:
    """Add --strategy, --depth and --theta."""
    parser.add_argument("--strategy", metavar="NAME", help="name or name:option=value,... (default: the model's)")
    parser.add_argument("--depth", metavar="D", help="the strategy's depth")
    parser.add_argument("--theta", metavar="T", help="the strategy's threshold")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add --root and --allow-pipes."""
    parser.add_argument("--root", metavar="DIR", help="root of relative audio paths (default: SPEECHMTP_CORPORA)")
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands of wav.scp")


def add_loop_options(parser: argparse.ArgumentParser) -> None:
    """Add --resume, --device, --threads and key=value overrides, for every training."""
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run stopped, on the same data")
    add_device_options(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="configuration values that win over the file's"
    )


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `add_loop_options` and `add_data_options`, and --storage, for trainings on audio."""
    add_loop_options(parser)
    parser.add_argument("--storage", choices=("float32", "int8"), default="float32",
                        help="how weights are stored (default float32)")  # fmt: skip
    add_data_options(parser)


def add_speech_options(parser: argparse.ArgumentParser) -> None:
    """Add --language and --task."""
    parser.add_argument("--language", metavar="CODE", default="",
                        help="of a multilingual model: what is spoken, such as de (default: its folder's)")  # fmt: skip
    parser.add_argument("--task", choices=("transcribe", "translate"), default="",
                        help="of a multilingual model: translate is into English (default: its folder's)")  # fmt: skip


def settings_of(args: argparse.Namespace) -> "EvaluationSettings":
    """The evaluation settings given by the options; missing options keep their defaults."""
    from dataclasses import fields

    from speechmtp.evaluation.settings import EvaluationSettings

    names = [field.name for field in fields(EvaluationSettings)]
    return EvaluationSettings(**{name: getattr(args, name) for name in names if hasattr(args, name)})
