"""The stages of recipes/heads.sh with a stand-in for the speechmtp program."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """#!{python}
import json, pathlib, sys
words = sys.argv[1:]
with open("calls", "a") as file:
    print(*words, file=file)
out = pathlib.Path(words[words.index("--out") + 1])
named = [pathlib.Path(words[i + 1]).name for i, word in enumerate(words) if word == "--heads"]
out.mkdir(parents=True, exist_ok=True)
if words[:2] == ["train", "heads"]:
    (out / "train.yaml").write_text("")
    (out / "training/frozen").mkdir(parents=True, exist_ok=True)
    (out / "training/frozen/final.json").write_text('{{"steps": 9}}')
    (out / "training/frozen/train.jsonl").write_text('{{"step": 9, "step_s": 0.5}}\\n')
    if "mode=joint" in words:
        (out / "model").mkdir()
    else:
        (out / "heads.safetensors").write_text("")
    print('{{"score": 20.0}}'); print("heads")
elif words[:2] == ["heads", "report"]:
    depth = {{"conditional": 0.5, "tokens_per_call": 4.0, "share": 0.8, "product": 4.5}}
    heads = [{{"name": n, "parameters": 7, "tokens_per_call": 4.0, "depths": [depth] * 7}} for n in named or ["chain"]]
    (out / "report.json").write_text(json.dumps({{"heads": heads}}))
    (out / "report.png").write_text("picture")
elif words[0] == "compare":
    common = {{"tokens_per_call": 4.0, "identical_to_ar": 3, "utterances": 3, "draft_ms_per_call": 1.5,
              "speedup_vs_ar": 2.0, "wer": 5.0, "wer_low": 4.0, "wer_high": 6.0}}
    rows = []
    for text in words[words.index("--strategies") + 1].replace(",heads", ";heads").split(","):
        name, _, rest = text.partition(":")
        options = dict(pair.split("=") for pair in rest.split(";") if pair)
        if "depth" in options:
            options["depth"] = int(options["depth"])
        rows.append(common | {{"strategy": name, "options": options}})
    (out / "compare.json").write_text(json.dumps(rows))
else:
    sys.exit(f"unknown verb {{words[:2]}}")
"""
CHOSEN = """chain: {lr: 0.003, update_seconds: 0.5, dev_calls_per_100_tokens: {0.001: 21.0, 0.003: 20.0}}
linear: {lr: 0.001, update_seconds: 0.1, dev_calls_per_100_tokens: {0.001: 19.0, 0.003: 20.0}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of two sets and two variants on two models, its learning rates chosen already."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    folder = tmp_path / "egs/toy/heads"
    (folder / "conf").mkdir(parents=True)
    (folder / "conf/sets.txt").write_text("# name base options\nlinear - --heads linear\nchain - --heads chain\n")
    losses = "chain_kd chain --heads chain loss.kind=kd\nchain_joint chain --heads chain mode=joint targets=text\n"
    (folder / "conf/losses.txt").write_text(losses)
    (folder / "conf/chosen.yaml").write_text(CHOSEN)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/speechmtp").write_text(PROGRAM.format(python=sys.executable))
    (tmp_path / "bin/speechmtp").chmod(0o755)
    return folder


def run(recipe: Path, *words: str, code: int = 0) -> list[str]:
    """Output lines of the recipe called with some options."""
    path = f"{recipe.parents[2] / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["../../../recipes/heads.sh", "--jobs", "1", *words], cwd=recipe, text=True, capture_output=True, check=False,
        env=os.environ | {"PATH": path, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return (done.stdout + done.stderr).splitlines()


def calls(recipe: Path) -> list[str]:
    """Calls of speechmtp so far."""
    path = recipe / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_every_set_is_trained_reported_compared_and_stands_on_the_page(recipe: Path) -> None:
    run(recipe, "--data", "d", "--models", "one=ONE two=TWO")
    trained = [line for line in calls(recipe) if line.startswith("train heads")]
    assert len(trained) == 2 * 2 + 2
    assert all("--train d/train --dev d/dev" in line for line in trained)
    assert "steps=150 optim.lr=0.003" in next(line for line in trained if "exp/one/chain " in line)
    assert "steps=750 optim.lr=0.001" in next(line for line in trained if "exp/two/linear " in line)
    joint = next(line for line in trained if "chain_joint" in line)
    assert "--model TWO" in joint and "prompts_text" in joint and "steps=150" in joint, "the base's budget"
    compared = [line for line in calls(recipe) if line.startswith("compare")]
    assert "verify:depth=3,heads=linear,verify:depth=7,heads=linear" in compared[0]
    assert compared[0].startswith("compare d/test --model ONE --heads exp/one/linear --heads exp/one/chain")
    assert compared[-1].startswith("compare d/test --model exp/two/chain_joint/model")
    page = (recipe / "RESULTS.md").read_text()
    titles = ("frozen trunk `one`", "frozen trunk `two`", "Losses and modes on `two`")
    for text in (*titles, "| loss.kind=kd", "| chain_joint"):
        assert text in page, text
    assert (recipe / "RESULTS.png").read_text() == "picture"


def test_what_is_trained_is_not_trained_again(recipe: Path) -> None:
    run(recipe, "--models", "one=ONE", "--stop-stage", "3")
    first = len(calls(recipe))
    lines = run(recipe, "--models", "one=ONE", "--stop-stage", "3")
    assert first == 4 and len(calls(recipe)) == 4
    assert "exp/one/linear: up to date" in lines


def test_mistakes_are_named(recipe: Path) -> None:
    assert any("--models: none given" in line for line in run(recipe, code=2))
    assert any("invalid option --nope" in line for line in run(recipe, "--nope", "1", code=2))
    (recipe / "conf/sets.txt").write_text("hydra - --heads hydra\n")
    lines = run(recipe, "--models", "one=ONE", "--only", "train", code=123)
    assert any("conf/chosen.yaml: no line hydra; run the stage `choose`" in line for line in lines)
    assert lines[-1].startswith("heads.sh: stage 2 (train) failed"), json.dumps(lines)
