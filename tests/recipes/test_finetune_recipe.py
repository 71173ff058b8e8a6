"""The stages of egs/an4/finetune1 with a stand-in for the speechmtp program."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import install

ROOT = Path(__file__).resolve().parents[2]
VERBS = """elif verb == "train asr":
    write(option("--out") / "model", "card.md")
elif verb == "train heads":
    write(option("--out"), "card.md")
elif verb == "decode":
    write(option("--out"), "text")
elif verb == "score":
    print("%WER 1.00 [ 1 / 100 ]"); print("more")
"""
SETS = ("an4/train", "an4/test", "librispeech/train", "librispeech/dev")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe folder, with corpora that hold a name."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    for name in ("finetune1", "asr1"):
        ignored = shutil.ignore_patterns("data", "exp")
        shutil.copytree(ROOT / "egs/an4" / name, tmp_path / "egs/an4" / name, ignore=ignored)
    for name in SETS:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "wav.scp").write_text("a a.wav\n")
    install(tmp_path, VERBS)
    return tmp_path / "egs/an4/finetune1"


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


def test_test_sets_are_only_scored_and_nothing_is_trained_twice(recipe: Path) -> None:
    printed = run(recipe)
    calls = (recipe / "calls").read_text().splitlines()
    [trained] = [call for call in calls if call.startswith("train asr")]
    assert "--model default --config conf/decoder.yaml --train data/train --keep data/keep" in trained
    assert "--dev data/dev --dev data/keep_dev" in trained and trained.endswith("--out exp/decoder")
    tests = [call.split()[0] for call in calls if "data/test" in call or "data/keep_test" in call]
    assert set(tests) == {"data", "decode", "score", "compare"}
    assert "keep_test, before: %WER 1.00 [ 1 / 100 ]\nkeep_test, after: %WER" in printed
    assert "more" not in printed
    [heads] = [call for call in calls if call.startswith("train heads")]
    assert "--model exp/decoder/model" in heads and "--dev data/dev" in heads
    run(recipe, "--stop-stage", "2")
    assert (recipe / "calls").read_text().splitlines() == calls
    run(recipe, "--only", "train", "--parts", "full", "--model", "some/model")
    assert "--model some/model --config conf/full.yaml" in (recipe / "calls").read_text().splitlines()[-1]


def test_a_missing_corpus_is_one_line(recipe: Path) -> None:
    shutil.rmtree(recipe.parents[2] / "librispeech/dev")
    assert "no librispeech/dev/wav.scp there; set SPEECHMTP_CORPORA" in run(recipe, "--only", "data", code=2)


def test_configurations_of_the_recipe_fit_the_trainings() -> None:
    from speechmtp.config import load_config
    from speechmtp.training.tasks.finetune_data import FinetuneConfig
    from speechmtp.training.tasks.heads import HeadsTrainConfig

    folder = ROOT / "egs/an4/finetune1/conf"
    for parts in ("full", "decoder", "lora"):
        config = load_config(FinetuneConfig, folder / f"{parts}.yaml")
        assert config.parts == parts and 0 < round(config.keep_share * config.rows) < config.rows
    assert load_config(HeadsTrainConfig, folder / "heads.yaml").heads.kind == "chain"
