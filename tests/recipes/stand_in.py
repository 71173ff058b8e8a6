"""A stand-in for the speechmtp program, which writes what a recipe looks for and notes how it was called."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

_PROGRAM = """#!{python}
import pathlib, sys
words = sys.argv[1:]
with open("calls", "a") as file:
    print(*words, file=file)
def option(name):
    return pathlib.Path(words[words.index(name) + 1])
def write(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("a b\\n")
verb = " ".join(words[:2]) if words[0] in ("data", "train") else words[0]
if verb == "data subset":
    for folder in [pathlib.Path(words[3])] + [option(o) for o in ("--rest",) if o in words]:
        write(folder, "wav.scp", "text")
elif verb == "data combine":
    write(pathlib.Path(words[2]), "wav.scp", "text")
"""


def install(folder: Path, verbs: str) -> None:
    """FOLDER/bin/speechmtp; `verbs` are branches (`elif verb == ..`) of what it does beside data directories. It has
    `words`, `option(name)` and `write(folder, *names)`; calls go to the file `calls` where it runs."""
    (folder / "bin").mkdir()
    program = folder / "bin/speechmtp"
    program.write_text(_PROGRAM.format(python=sys.executable) + verbs)
    program.chmod(0o755)


def copy_recipes(folder: Path, names: Sequence[str], sets: Sequence[str], made: str) -> None:
    """Copies the recipes without what they have written (`made` among it), and makes corpora that hold a name."""
    root = Path(__file__).resolve().parents[2]
    shutil.copytree(root / "recipes", folder / "recipes")
    ignored = shutil.ignore_patterns("data", "exp", made, "*.png")
    for name in names:
        shutil.copytree(root / "egs" / name, folder / "egs" / name, ignore=ignored)
    for name in sets:
        (folder / name).mkdir(parents=True)
        (folder / name / "wav.scp").write_text("a a.wav\n")
        (folder / name / "spk2utt").write_text("19 a\n1263 b\n")
