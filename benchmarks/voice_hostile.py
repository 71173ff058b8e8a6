"""Does a voice survive whatever it is given? A thousand lines, each spoken once through the Python interface.

Empty lines, one letter, thousands of characters, emoji, other scripts, punctuation alone, numbers, addresses, very long
words, control characters, markup, broken markup, and random mixtures of all of them, always the same for one `--seed`.
Of each: the length is the planned one, samples are finite and in [-1, 1], there is sound wherever there are words, and
silence says why (`skipped`). Markup that cannot be read is a DataError or ConfigError of one line. The exit status is 1
where a line breaks a promise.

    python benchmarks/voice_hostile.py --number 1000 --out hostile
"""

import argparse
import json
import platform
import random
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sides import HERE, commit_of, facts_below, processor

import speechmtp
from speechmtp.config import read_yaml
from speechmtp.errors import SpeechMTPError
from speechmtp.progress import track
from speechmtp.scoring.tables import Column, render_markdown

WORDS = (
    "the a of reading river seven Martin Reykjavik strengths e-mail don't O'Neill naïve café USA Dr. Mr. No. St. vs. "
    "etc. I'm we'd it's queue rhythm xyzzy pneumonoultramicroscopicsilicovolcanoconiosis a I o"
).split()
LINES = HERE / "voice_hostile.yaml"


def lines_of(number: int, seed: int) -> list[tuple[str, str]]:
    """Kinds and texts: the fixed ones, then long and random ones up to `number`."""
    draw = random.Random(seed)
    fixed: dict[str, list[str]] = read_yaml(LINES)
    found = [(kind, text) for kind, texts in fixed.items() for text in texts]
    found += [("long", one * 5000) for one in "aA1."] + [("long", "word " * 1000)]
    found.append(("long", "".join(draw.choice("abcdefgh ,.") for _ in range(5000))))
    parts = [text for texts in fixed.values() for text in texts if "pause 1e9" not in text]
    while len(found) < number:
        kind = draw.choice(("words", "words", "mixed", "letters", "long word"))
        if kind == "words":
            text = " ".join(draw.choices(WORDS, k=draw.randint(1, 12))) + draw.choice([".", "?", "!", "", ","])
        elif kind == "mixed":
            text = draw.choice(["", " "]).join(draw.choices([*parts, *WORDS], k=draw.randint(2, 6)))
        elif kind == "letters":
            text = "".join(chr(draw.randint(32, 0x2FF)) for _ in range(draw.randint(1, 40)))
        else:
            text = "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.randint(20, 120)))
        found.append((kind, text))
    return found[:number]


def problem_of(voice: Any, text: str, markup: str) -> tuple[str, float, str]:
    """What is wrong with the speech of a text (empty: nothing), its seconds, and how it came out."""
    try:
        planned = sum(one.samples for one in voice.plan(text, markup=markup))
        speech = voice.synthesize(text, seed=0, markup=markup)
    except SpeechMTPError as error:
        return ("an error of several lines" if "\n" in str(error) else ""), 0.0, f"error: {error}"
    audio, seconds = speech.audio, len(speech.audio) / speech.rate
    how = "speech" if len(audio) else "silence"
    if len(audio) != planned:
        return f"{len(audio)} samples, {planned} planned", seconds, how
    if not np.isfinite(audio).all():
        return "samples that are not finite", seconds, how
    if len(audio) and float(np.abs(audio).max()) > 1.0:
        return f"a peak of {np.abs(audio).max():.3f}", seconds, how
    if speech.marks and float(np.abs(audio).max()) < 1e-3:
        return "words without sound", seconds, how
    written = re.sub(r"\[pause [^\]]*\]", "", text)  # a pause is silence that was asked for
    if not speech.marks and any(one.isalnum() for one in written) and not speech.skipped:
        return "letters or digits that are neither spoken nor named as skipped", seconds, how
    ends = [mark.stop for mark in speech.marks]
    if ends and not (ends == sorted(ends) and ends[-1] <= seconds + 1e-6):
        return "times of words that are out of order or beyond the end", seconds, how
    return "", seconds, how


def check(args: argparse.Namespace) -> int:
    """Speak all lines, print what went wrong, write it."""
    torch.set_num_threads(1)
    voice: Any = speechmtp.load_voice(args.voice) if args.voice else speechmtp.load_voice()
    began, total = time.perf_counter(), 0.0
    wrong, counts, errors = list[dict[str, Any]](), Counter[tuple[str, str]](), Counter[str]()
    for number, (kind, text) in enumerate(track(lines_of(args.number, args.seed), "lines")):
        markup = "ssml" if text.lstrip().startswith("<speak") else "text"
        try:
            problem, seconds, how = problem_of(voice, text, markup)
        except Exception as error:
            problem, seconds, how = f"{type(error).__name__}: {error}", 0.0, "crash"
        total += seconds
        counts[kind, how.split(":")[0]] += 1
        if how.startswith("error"):
            errors[how] += 1
        if problem:
            wrong.append({"line": number, "kind": kind, "problem": problem[:120], "text": ascii(text[:60])})
    kinds = list(dict.fromkeys(kind for kind, _ in counts))
    outcomes = ("speech", "silence", "error", "crash")
    text = render_markdown(
        [{"kind": kind, **{how: counts[kind, how] for how in outcomes}} for kind in kinds],
        [Column("kind"), *(Column(how) for how in outcomes)],
    )
    if wrong:
        text += "\n" + render_markdown(wrong, [Column("line"), Column("kind"), Column("problem"), Column("text")])
    facts = {
        "command": shlex.join(["python", *sys.argv]), "commit": commit_of(HERE.parent), "voice": repr(voice),
        "lines": args.number, "broken promises": len(wrong), "speech": f"{total:.0f} s",
        "took": f"{time.perf_counter() - began:.0f} s", "machine": processor(), "torch": torch.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    text += "\n" + facts_below(facts)
    print(text)
    if args.out:
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "voice_hostile.md").write_text(text, encoding="utf-8")
        kept = json.dumps(facts | {"wrong": wrong, "errors": errors}, indent=1)
        (out / "voice_hostile.json").write_text(kept + "\n", encoding="utf-8")
    return int(bool(wrong))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voice", default="", help="name or folder (default: the embedded one)")
    parser.add_argument("--number", type=int, default=1000, metavar="N", help="lines")
    parser.add_argument("--seed", type=int, default=0, help="of the random lines")
    parser.add_argument("--out", default="", metavar="DIR", help="folder for voice_hostile.md and voice_hostile.json")
    try:
        return check(parser.parse_args(argv))
    except SpeechMTPError as error:
        print(f"voice_hostile: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
