"""A voice with heads that were trained for it, and the strategy that it speaks with.

python tools/voice_eval/with_heads.py --model exp/tuned --heads exp/heads --strategy verify:depth=5 --out exp/model
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from speechmtp.config import write_yaml
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import SpeechMTPError

FILES = ("config.yaml", "heads.safetensors", "card.md")


def write_voice(model: Path, heads: Sequence[Path], strategy: str, out: Path) -> None:
    """Copy a model folder with these heads, the first being the default, and the strategy as the voice's own."""
    import yaml

    parse_strategy(strategy)
    shutil.copytree(model, out, dirs_exist_ok=True)
    for folder in heads:
        made = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        target = out / "heads" / str(made["heads"]["kind"])
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copy(folder / name, target / name)
    config = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    write_yaml(out / "config.yaml", config | {"strategy": strategy})


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument("--heads", action="append", required=True, metavar="DIR", help="repeatable")
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--out", required=True, metavar="DIR", help="model folder that is written")
    args = parser.parse_args(argv)
    try:
        write_voice(Path(args.model), [Path(folder) for folder in args.heads], args.strategy, Path(args.out))
    except (SpeechMTPError, OSError) as error:
        print(f"with_heads: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
