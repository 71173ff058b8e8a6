"""the kernels that decoding uses on this machine, and why"""

import argparse

from speechmtp.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp kernels`."""
    parser.add_argument("--model", metavar="MODEL",
                        help="a speech model by name or folder: which of its parts run natively, too")  # fmt: skip
    parser.add_argument("--build", action="store_true",
                        help="compile the native library now if there is none; an error if that fails")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a list with `kernel`, `chosen` and `why`")


def run(args: argparse.Namespace) -> int:
    """Prints a line for each kernel."""
    from speechmtp.cli.streams import print_json
    from speechmtp.kernels.cpu.library import find_native
    from speechmtp.kernels.report import describe_kernels, describe_parts
    from speechmtp.scoring.tables import render_text

    lines = describe_kernels()
    if args.build and find_native().library is None:
        raise ConfigError(f"--build: {find_native().reason}")
    if args.model:
        from speechmtp.api import load

        bundle = load(args.model, device="cpu").bundle
        heads = {f"heads {name}": heads for name, heads in bundle.heads.items()}
        lines += describe_parts({"decoder": bundle.model.trunk, **heads})
    columns = ("kernel", "chosen", "why")
    rows = [dict(zip(columns, line)) for line in lines]
    if args.json:
        print_json(rows)
    else:
        print(render_text(rows, columns), end="")
    return 0
