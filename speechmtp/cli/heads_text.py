"""`heads report` for a text LM of transformers: texts go on behind their first tokens."""

import argparse
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.cli.head_report import ROWS, judged, places, summary_of
from speechmtp.cli.options import prepare_run
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from speechmtp.bundle import Bundle
    from speechmtp.evaluation.held_out import HeldOut
    from speechmtp.heads.contract import HeadSet
    from speechmtp.heads.folder import BaseDigests
    from speechmtp.types import Prompt

PROMPT_TOKENS, MAX_NEW_TOKENS = 8, 64


def text_summary(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """The figures of a text LM's head sets, and the folder for them."""
    import torch

    from speechmtp.bundle import WEIGHTS, load_without_heads
    from speechmtp.cli.reference import kept_tokens
    from speechmtp.evaluation.held_out import long_texts, text_dev
    from speechmtp.heads.folder import BaseDigests

    prompt_tokens, most, dtype = _checked(args)
    prepare_run(args)
    bundle, device = load_without_heads(args.model), torch.device(args.device)
    lm, digests = bundle.text_model, BaseDigests(bundle.model, bundle.folder / WEIGHTS)
    bundle.heads, folders = _heads(args, bundle, digests)
    digest = digests.trunk
    out, kept = places(args, folders)
    bundle.to(device, dtype)
    texts = long_texts(lm, [args.data], prompt_tokens)
    held_out = text_dev(lm, texts, prompt_tokens, most)
    names = [str(number) for number in range(1, len(texts) + 1)]
    prompts = dict(zip(names, held_out.prompts()))
    if args.reference == "text":
        tokens, source = (
            {name: text[prompt_tokens : prompt_tokens + most] for name, text in zip(names, texts)},
            args.data,
        )
    else:
        given = json.dumps([text[:prompt_tokens] for text in texts]).encode()
        key = {"trunk_sha256": digest, "prompts_sha256": hashlib.sha256(given).hexdigest(), "max_new_tokens": most,
               "dtype": args.dtype}  # fmt: skip
        decode = partial(_said, held_out, prompts, args.batch_size)
        tokens, known = kept_tokens(key, bundle.name, decode, kept[0], kept[1:])
        source = "kept tokens" if known else "decoded now"
    size = max(args.batch_size, ROWS)
    groups = [names[start : start + size] for start in range(0, len(names), size)]
    found = [judged(lm.trunk, h, name, folders[name], prompts, tokens, groups) for name, h in bundle.heads.items()]
    return summary_of(args, tokens, source, dtype, device, found) | {
        "prompt_tokens": prompt_tokens,
        "max_new_tokens": most,
    }, out


def _checked(args: argparse.Namespace) -> tuple[int, int, "torch.dtype"]:
    """Tokens of a prompt, most tokens behind it, and the type of the numbers."""
    from speechmtp.api import DTYPES

    prompt_tokens, most = (
        default if n is None else n
        for n, default in ((args.prompt_tokens, PROMPT_TOKENS), (args.max_new_tokens, MAX_NEW_TOKENS))
    )
    if min(prompt_tokens, most) < 1:
        raise ConfigError(f"--prompt-tokens {prompt_tokens}, --max-new-tokens {most}: expected 1 or more")
    if args.dtype not in DTYPES:
        raise ConfigError(f"--dtype {args.dtype}: expected one of {', '.join(DTYPES)}")
    return prompt_tokens, most, DTYPES[args.dtype]


def _said(held_out: "HeldOut", prompts: dict[str, "Prompt"], size: int) -> dict[str, list[int]]:
    return dict(zip(prompts, held_out.plain_outputs(list(prompts.values()), size)))


def _heads(
    args: argparse.Namespace, bundle: "Bundle", digests: "BaseDigests"
) -> tuple[dict[str, "HeadSet"], dict[str, Path]]:
    """Head sets by name, those of --heads or else all of the folder's own, and where they were read."""
    from speechmtp.heads.folder import find_heads, load_heads, own_heads

    folders = find_heads(bundle.folder, args.heads) if args.heads else own_heads(bundle.folder)
    if not folders:
        raise ConfigError(f"heads: {args.model} has no heads; train some, or give a head folder with --heads")
    heads = {
        name: load_heads(path, bundle.model, args.allow_stale_heads, digests) for name, path in folders.items()
    }  # fmt: skip
    return heads, folders
