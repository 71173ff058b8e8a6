"""the voices inside the package: language, size, licence, and what they are made of"""

import argparse

from speechmtp.models.locate import VOICES, locate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp voices`."""
    parser.add_argument("--cards", action="store_true", help="print the whole cards")


def run(args: argparse.Namespace) -> int:
    """Prints a line for each voice, or its card."""
    for name in VOICES:
        folder = locate(name)
        card = (folder / "card.md").read_text(encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        if args.cards:
            print(card)
            continue
        said = next((line for line in card.splitlines() if line and not line.startswith("#")), "")
        print(f"{name}  {size:.1f} MB  {said}")
    return 0
