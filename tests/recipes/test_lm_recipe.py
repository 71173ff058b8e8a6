"""The stages of egs/lm_en/lm1 on a made-up text, with a stand-in for the speechmtp program."""

import gzip
import os
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
out = pathlib.Path(words[words.index("--out") + 1])
if words[:2] == ["train", "lm"]:
    for folder in ("tokenizer", "model"):
        (out / folder).mkdir(parents=True)
        (out / folder / "tokenizer.json").write_text("pieces")
elif words[:2] == ["train", "heads"]:
    out.mkdir(parents=True, exist_ok=True)
    (out / "heads.safetensors").write_text("weights")
else:
    out.mkdir(parents=True)
    (out / "report.json").write_text("[]")
    print("a table")
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe folder, with a corpus of 101 blocks of 200 lines that name their block."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    ignored = shutil.ignore_patterns("data", "exp")
    shutil.copytree(ROOT / "egs/lm_en", tmp_path / "egs/lm_en", ignore=ignored)
    (tmp_path / "egs/an4/asr1").mkdir(parents=True)
    shutil.copy(ROOT / "egs/an4/asr1/path.sh", tmp_path / "egs/an4/asr1")
    (tmp_path / "text").mkdir()
    lines = "".join(f"BLOCK {n // 200} LINE {n}\n" for n in range(101 * 200))
    (tmp_path / "text/lm_en.txt.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/speechmtp").write_text(PROGRAM.format(python=sys.executable))
    (tmp_path / "bin/speechmtp").chmod(0o755)
    return tmp_path / "egs/lm_en/lm1"


def run(recipe: Path, *words: str, code: int = 0) -> str:
    """What the recipe prints with some options."""
    root = recipe.parents[2]
    environment = {"PATH": f"{root / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["./run.sh", "--corpora", str(root), *words], cwd=recipe, text=True, capture_output=True, check=False,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_no_line_is_lost_and_held_out_blocks_are_whole(recipe: Path) -> None:
    run(recipe, "--only", "data")
    parts = {p.stem: p.read_text().splitlines() for p in (recipe / "data").glob("*.txt")}
    blocks = {name: {doc.split()[i] for doc in docs for i in range(1, 32, 4)} for name, docs in parts.items()}
    assert blocks["dev"] == {"33"} and blocks["test"] == {"66"} and len(parts["dev"]) == len(parts["test"]) == 25
    assert blocks["train"] == {str(n) for n in range(101)} - {"33", "66"}
    numbers = sorted(int(d.split()[i]) for n in ("train", "dev", "test") for d in parts[n] for i in range(3, 32, 4))
    assert numbers == list(range(101 * 200))
    assert set(parts["heads"]) < set(parts["train"]) and len(parts["heads"]) > 150


def test_every_stage_runs_once_with_one_tokenizer(recipe: Path) -> None:
    run(recipe)
    calls = (recipe / "calls").read_text().splitlines()
    listed = [line for line in (recipe / "conf/sets.txt").read_text().splitlines() if not line.startswith("#")]
    trained = ["train heads"] * len(listed)
    assert [" ".join(call.split()[:2]) for call in calls] == [*["train lm"] * 2, *trained, "heads report"]
    assert calls[1].endswith("--tokenizer exp/big/tokenizer") and "--tokenizer" not in calls[0]
    assert all("--train data/heads.txt --dev data/dev.txt" in call for call in calls[2:-1])
    assert not any("data/test.txt" in call for call in calls)
    run(recipe)
    assert len((recipe / "calls").read_text().splitlines()) == len(calls)


def test_a_missing_corpus_is_one_line(recipe: Path) -> None:
    (recipe.parents[2] / "text/lm_en.txt.gz").unlink()
    assert "no text/lm_en.txt.gz there; set SPEECHMTP_CORPORA" in run(recipe, "--only", "data", code=2)


def test_configurations_of_the_recipe_fit_the_trainings() -> None:
    from speechmtp.config import load_config
    from speechmtp.models.trunk import build_trunk
    from speechmtp.training.tasks.heads import HeadsTrainConfig
    from speechmtp.training.tasks.lm import LmConfig

    folder = ROOT / "egs/lm_en/lm1/conf"
    sizes = []
    for name in ("big", "small"):
        config = load_config(LmConfig, folder / f"{name}.yaml")
        assert config.lines == 1
        sizes.append(sum(p.numel() for p in build_trunk(config.model, 1024).parameters()))
    assert 2e6 < sizes[0] < 5e6 and sizes[1] < sizes[0] / 4
    assert load_config(HeadsTrainConfig, folder / "heads.yaml").prompt_tokens == 32
