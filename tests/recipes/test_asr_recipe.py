"""The AN4 recipe's stages with a stand-in for the speechmtp program, in a folder with an odd name."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """#!{python}
import pathlib, sys
words = sys.argv[1:]
with open("calls", "a") as file:
    print(*words, file=file)
def option(name, default=None):
    return pathlib.Path(words[words.index(name) + 1]) if name in words else default
def data(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("text", "wav.scp", "utt2spk"):
        (folder / name).write_text("".join(f"s{{i:04}} {{name}}\\n" for i in range(lines)))
def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
out = option("--out")
verb = " ".join(words[:2]) if words[0] in ("data", "train") else words[0]
if verb == "data prepare":
    data(out / "train_all", 200); data(out / "test", 20)
elif verb == "data subset":
    data(pathlib.Path(words[3]), 100 if "--spk-list" in words else int(option("--first").name))
    if "--rest" in words: data(option("--rest"), 100)
elif verb in ("data validate", "data stats"):
    print(verb, words[2])
elif verb == "train tokenizer":
    write(out, "tokens")
elif verb == "train asr":
    write(out / "model/config.yaml", option("--config").read_text())
elif verb == "tune":
    write(out / "tune.json"); write(option("--conf"), "theta: 0.9\\n")
elif verb == "decode":
    write(out / "text", "s0000 a\\n")
elif verb == "compare":
    assert pathlib.Path(words[words.index("--strategies") + 1][1:]).exists()
    write(out / "compare.json", "[]")
elif verb == "score":
    write(out / "summary.json", "{{}}"); print("%WER 0.0")
elif verb == "results":
    write(out, "table\\n")
else:
    sys.exit(f"unknown verb {{verb}}")
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipe in `a b'c`, with a stand-in speechmtp and configurations."""
    root = tmp_path_factory.mktemp("recipe") / "a b'c"
    ignored = shutil.ignore_patterns("data", "exp", "downloads", "RESULTS.md")
    shutil.copytree(ROOT / "recipes", root / "recipes")
    shutil.copytree(ROOT / "egs/an4", root / "egs/an4", ignore=ignored)
    folder = root / "egs/an4/asr1"
    (folder / "conf").mkdir(exist_ok=True)
    for name in ("train", "tiny"):
        (folder / f"conf/{name}.yaml").write_text(f"name: {name}\n")
    (folder / "local/make_text.py").unlink(missing_ok=True)
    (folder / "conf/decode.yaml").unlink(missing_ok=True)
    (root / "bin").mkdir()
    (root / "bin/speechmtp").write_text(PROGRAM.format(python=sys.executable))
    (root / "bin/speechmtp").chmod(0o755)
    return folder


def run(recipe: Path, *words: str, code: int = 0) -> list[str]:
    """Run the recipe from another folder; return its lines of both outputs."""
    root = recipe.parents[2]
    environment = {
        **os.environ,
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "SPEECHMTP_CORPORA": str(root),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [str(recipe / "run.sh"), *words],
        cwd="/",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
        env=environment,
    )
    assert done.returncode == code, done.stdout
    return done.stdout.splitlines()


def calls(recipe: Path) -> list[str]:
    """Return the command lines of speechmtp since the last look, temporary names made plain."""
    path = recipe / "calls"
    text = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    return [re.sub(r"\.tmp-\d+", "", line) for line in text.splitlines()]


def test_every_stage_then_none(recipe: Path) -> None:
    lines = run(recipe)
    seen = calls(recipe)
    for expected in (
        f"data prepare an4 --source {recipe.parents[2]} --out data",
        "data subset data/train_all data/dev --spk-list conf/dev_speakers --rest data/train",
        "data validate data/train",
        "data validate data/test --against data/train",
        "train tokenizer --text data/train/text --vocab-size 30 --out data/tokenizer.model",
        "train asr --config conf/train.yaml --train data/train --dev data/dev --out exp/train",
        "tune data/dev --model exp/train/model --out exp/train/tune --conf conf/decode_train.yaml",
        "decode data/test --model exp/train/model --strategy ctc-only --nj 2 --cmd run.py"
        " --out exp/train/decode/test_ctc-only",
        "compare data/test --model exp/train/model --strategies @conf/decode_train.yaml --batch-size 16"
        " --out exp/train/compare/test_batch16",
        "score data/test exp/train/decode/test_ar/text --out exp/train/score/test_ar",
        "results exp/train --out RESULTS.md",
    ):
        assert expected in seen
    headings = [line.split()[1] for line in lines if line.startswith("stage") and ": running" not in line]
    assert list(dict.fromkeys(headings)) == ["0", "1", "2", "3", "4", "5", "7", "8", "10", "11", "12", "13", "14"]
    for name in (
        "exp/train/run.sh",
        "exp/train/environment.txt",
        "exp/train/log/train.log",
        "RESULTS.md",
        "exp/train/pack/an4_train.tar.gz",
    ):
        assert (recipe / name).exists(), name
    lines = run(recipe, "--nj", "4")
    assert not [line for line in lines if ": running (" in line]
    assert calls(recipe) == []


def test_tiny_is_apart(recipe: Path) -> None:
    run(recipe, "--stage", "1", "--stop-stage", "1")
    calls(recipe)
    run(recipe, "--tiny", "--stage", "1")
    seen = calls(recipe)
    assert "data subset data/train data/tiny/train --first 32" in seen
    assert "train asr --config conf/tiny.yaml --train data/tiny/train --dev data/tiny/dev --out exp/tiny" in seen
    assert (
        "tune data/tiny/dev --model exp/tiny/model --out exp/tiny/tune --conf exp/tiny/decode.yaml --thetas 0.9" in seen
    )
    assert "results exp/tiny --out exp/tiny/RESULTS.md" in seen


def test_mistakes_cost_no_time(recipe: Path) -> None:
    assert "invalid option --nope; did you mean" in run(recipe, "--nope", "1", code=2)[0]
    assert "unexpected argument 'word'" in run(recipe, "word", code=2)[0]
    lines = run(recipe, "--train-config", "conf/absent.yaml", code=2)
    assert "asr.sh: --train-config conf/absent.yaml: no such file" in lines
    assert lines[-1].startswith("asr.sh: stage 0 (preflight) failed")
    assert calls(recipe) == []


def test_help_lists_the_stages(recipe: Path) -> None:
    lines = run(recipe, "--help")
    assert any(line.split()[:2] == ["8", "train"] for line in lines)
    assert any(line.split()[:1] == ["--tiny"] for line in lines)


def test_run_script_is_short() -> None:
    for path in ROOT.glob("egs/*/*/run.sh"):
        assert len(path.read_text().splitlines()) <= 40, path
        assert os.access(path, os.X_OK), path
