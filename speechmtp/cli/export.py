"""write a model folder again, in another storage or with another card"""

import argparse
from pathlib import Path

from speechmtp.cli.options import add_ctc_option, add_head_options, add_model_option, add_out_option
from speechmtp.errors import ConfigError, DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp export`."""
    add_model_option(parser)
    add_out_option(parser, "new model folder")
    parser.add_argument("--storage", choices=("int8", "uint8", "float32"), default="int8",
                        help="int8 (default): 8-bit integers with a float32 scale a row; uint8: weights that were "
                        "published as unsigned integers, bit for bit, and float16 for others")  # fmt: skip
    add_ctc_option(parser, "a CTC draft head to put into the folder (default: the model's own `ctc/`)")
    add_head_options(parser)
    parser.add_argument("--card", metavar="FILE", help="model card to put in place of the model's own")


def run(args: argparse.Namespace) -> int:
    """Loads the model, writes the new folder, prints its size."""
    from speechmtp.bundle import load_bundle, save_bundle
    from speechmtp.cli.checks import check_heads

    out = Path(args.out)
    if (out / "config.yaml").exists():
        raise ConfigError(f"--out {out}: holds a model already; remove it or give another folder")
    check_heads(args.model, args.heads)
    bundle = load_bundle(args.model, heads=args.heads, ctc=args.ctc)
    if args.card:
        try:
            bundle.card = Path(args.card).read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{args.card}: {error.strerror or error}; a text file is expected") from error
    bundle.name = out.name
    save_bundle(bundle, out, args.storage)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.2f} MB, {args.storage}")
    return 0
