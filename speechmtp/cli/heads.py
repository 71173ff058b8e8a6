"""head sets: those that a model has (`heads list`), and what each would accept on your data (`heads report`)"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.cli.head_report import ROWS, judged, places, summary_of, write_report
from speechmtp.cli.options import (
    add_data_options,
    add_head_options,
    add_run_options,
    batches,
    check_data,
    listen_all,
    open_recogniser,
)
from speechmtp.errors import ConfigError
from speechmtp.models.bases.names import MODEL

if TYPE_CHECKING:
    from speechmtp.api import Recogniser
    from speechmtp.data.kaldi import DataDir
    from speechmtp.heads.folder import BaseDigests
    from speechmtp.types import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp heads`."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    shown = kinds.add_parser("list", help="the head sets of a model and of other folders")
    shown.add_argument("model", metavar="MODEL", help=MODEL)
    add_head_options(shown)
    report = kinds.add_parser("report", help="acceptance per depth and tokens per call, predicted by one pass")
    report.add_argument("model", metavar="MODEL", help=MODEL)
    report.add_argument("data", metavar="DATA", help="Kaldi data directory; for a text LM a text file, a text a line")
    report.add_argument("--reference", choices=("ar", "text"), default="ar",
                        help="judge on what `ar` says, decoded once and kept (default), "
                        "or on transcripts, the text itself (biased)")  # fmt: skip
    report.add_argument("--prompt-tokens", type=int, metavar="N",
                        help="text LM: the first tokens of each text are its prompt (default 8)")  # fmt: skip
    report.add_argument("--max-new-tokens", type=int, metavar="N",
                        help="text LM: tokens that `ar` goes on for, at most (default 64)")  # fmt: skip
    report.add_argument("--out", metavar="DIR", help="folder for the report and the kept tokens (default: "
                        "in `report` of the first head folder)")  # fmt: skip
    add_run_options(report)
    add_data_options(report)


def run(args: argparse.Namespace) -> int:
    """Lists or reports."""
    return _list(args) if args.kind == "list" else _report(args)


def _list(args: argparse.Namespace) -> int:
    from speechmtp.bundle import WEIGHTS, load_without_heads
    from speechmtp.heads.folder import BaseDigests, find_heads, own_heads
    from speechmtp.scoring.tables import Column, render_text

    bundle = load_without_heads(args.model)
    folder, owner = bundle.folder, bundle.model
    folders = own_heads(folder)
    others = [path for path in find_heads(folder, args.heads).values() if path not in folders.values()]
    if not folders and not others:
        print(f"{args.model}: no heads; train some, or name head folders with --heads")
        return 0
    digests = BaseDigests(owner, folder / WEIGHTS)
    rows = [_described(path, name, digests) for name, path in folders.items()]
    rows += [_described(path, str(path), digests) for path in others]
    plain = ("name", "family", "depth", "taps", "parameters", "shortlist", "size_on_disk", "base")
    columns = [*map(Column, plain), Column("fits", "trained on this trunk")]
    print(render_text(rows, columns), end="")
    return 0


def _described(folder: Path, name: str, digests: "BaseDigests") -> dict[str, Any]:
    """A row of the list, from the files alone: heads of another trunk may not fit this one."""
    from speechmtp.config import load_config
    from speechmtp.heads.folder import HeadFolderConfig, stored_parameters

    config = load_config(HeadFolderConfig, folder / "config.yaml")
    heads, weights = config.heads, folder / "heads.safetensors"
    parameters = stored_parameters(weights)
    size = sum(path.stat().st_size for path in (weights, folder / "config.yaml"))
    return {
        "name": name, "family": heads.kind, "depth": heads.depth, "taps": list(config.taps), "parameters": parameters,
        "shortlist": heads.shortlist or None, "size_on_disk": f"{size / 1e6:.2f} MB", "base": config.base or None,
        "fits": digests.is_trunk_of(config),
    }  # fmt: skip


def _report(args: argparse.Namespace) -> int:
    from speechmtp.bundle import reads_text
    from speechmtp.cli.heads_text import text_summary

    text = reads_text(args.model)
    if not text and (args.prompt_tokens is not None or args.max_new_tokens is not None):
        raise ConfigError(
            f"--prompt-tokens, --max-new-tokens: are for a text LM, and {args.model} is a speech model; leave them out"
        )
    check_data(args.model, [args.data], text)
    summary, out = (text_summary if text else _summary)(args)
    write_report(summary, out)
    return 0


def _summary(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """The figures of a speech model's head sets, and the folder for them."""
    from speechmtp.data.kaldi import read_data_dir

    recogniser = open_recogniser(args)
    recogniser.heads_named()  # one at least
    folders = recogniser.bundle.head_folders
    out, kept = places(args, folders)
    data = read_data_dir(args.data, args.root, need_text=args.reference == "text", allow_pipes=args.allow_pipes)
    requests, _ = listen_all(recogniser, data, args.allow_pipes)
    tokens, source = _reference(args, recogniser, data, requests, kept)
    prompts = {name: one.prompt for name, one in requests.items()}
    groups = list(batches(list(requests), requests, max(args.batch_size, ROWS)))
    trunk = recogniser.bundle.model.trunk
    found = [
        judged(trunk, h, name, folders[name], prompts, tokens, groups) for name, h in recogniser.bundle.heads.items()
    ]
    return summary_of(args, tokens, source, recogniser.dtype, recogniser.device, found), out


def _reference(
    args: argparse.Namespace, recogniser: "Recogniser", data: "DataDir", requests: Mapping[str, "Request"],
    kept: list[Path],
) -> tuple[dict[str, list[int]], str]:  # fmt: skip
    """The outputs to judge on, and where they are from."""
    from speechmtp.cli.reference import plain_tokens, text_tokens

    if args.reference == "text":
        return text_tokens(recogniser, requests, data.transcripts()), f"{args.data}/text"
    tokens, known = plain_tokens(recogniser, requests, args.batch_size, kept[0], kept[1:])
    return tokens, "kept tokens" if known else "decoded now"
