"""How far the front end's phones are from others', in errors per hundred symbols.

    python tools/phone_error.py corpus DIR...           # data directories with `text` and `phones`
    python tools/phone_error.py hibari PACKAGE LINES.gz [--lines 2000]

`corpus` compares with the phones that a teacher read, blanks squeezed on both sides, since the teacher left a blank
where it lost a word; once over all lines, and once without the lines that lost words (doubled or leading blanks, or one
before a period). `hibari` compares with the front end of the unpacked package hibari-tts on every n-th line of a text,
in small letters with a period (it needs onnxruntime). `--show N` prints N lines that differ.
"""

import argparse
import gzip
import re
import subprocess
import sys
import time
import types
from collections.abc import Iterable
from pathlib import Path

from speechmtp.g2p.frontend import FrontEnd
from speechmtp.scoring.align import align

_LOST = re.compile(r"  |^ |^s |(?<![—(“”\"]) [,.;:!?]")


def squeezed(phones: str) -> str:
    """Single blanks, none at the ends."""
    return re.sub(" +", " ", phones).strip()


def read_table(path: Path) -> dict[str, str]:
    """Second fields by ids; blanks inside are kept."""
    return dict(line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())


def compare(name: str, triples: Iterable[tuple[str, str, str]], show: int) -> None:
    """Print the error of (text, said, expected) triples, and some that differ."""
    errors = symbols = lines = 0
    wrong = []
    for text, said, expected in triples:
        pairs = align(squeezed(expected), squeezed(said))
        found = sum(one != other for one, other in pairs)
        errors, symbols, lines = errors + found, symbols + len(squeezed(expected)), lines + 1
        if found:
            wrong.append((text, said, expected))
    print(
        f"{name}: {100 * errors / symbols:.3f} % ({errors} of {symbols} symbols), {len(wrong)} of {lines} lines differ"
    )
    for text, said, expected in wrong[:: max(1, len(wrong) // show)] if show else []:
        print(f"  {text}\n    ours  {said}\n    other {expected}")


def corpus(directories: list[str], show: int) -> None:
    """Against the `phones` of data directories."""
    front_end = FrontEnd()
    next(front_end.sentences("Load."))
    triples = []
    started = time.process_time()
    for directory in map(Path, directories):
        texts, phones = read_table(directory / "text"), read_table(directory / "phones")
        for utterance, text in texts.items():
            said = " ".join(sentence.phones for sentence in front_end.sentences(text))
            triples.append((text, said, phones[utterance]))
    spent = time.process_time() - started
    compare("all lines", triples, 0)
    compare("lines whose reading lost no word", [one for one in triples if not _LOST.search(one[2])], show)
    print(f"{1000 * spent / len(triples):.2f} ms of processor time a line")


def hibari(package: str, path: str, count: int, show: int) -> None:
    """Against the front end of hibari-tts, whose folder is loaded without its speech model."""
    module = types.ModuleType("hibari")
    module.__path__ = [str(Path(package) / "hibari")]
    sys.modules["hibari"] = module
    from hibari.g2p import G2P

    front_end, other = FrontEnd(), G2P()
    lines = gzip.decompress(Path(path).read_bytes()).decode().splitlines()
    texts = [f"{line.lower()}." for line in lines[:: max(1, len(lines) // count)][:count]]
    triples = [(text, " ".join(one.phones for one in front_end.sentences(text)), other(text)) for text in texts]
    compare("lines of text", triples, show)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["corpus", "hibari"])
    parser.add_argument("source", nargs="+")
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--show", type=int, default=0)
    options = parser.parse_args()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"commit {commit}")
    if options.what == "corpus":
        corpus(options.source, options.show)
    else:
        hibari(*options.source, options.lines, options.show)
