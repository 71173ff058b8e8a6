"""The stages of egs/moonshine/heads1 and egs/whisper/heads1 with a stand-in for the speechmtp program."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import copy_recipes, install

ROOT = Path(__file__).resolve().parents[2]
VERBS = """elif verb in ("train heads", "train ctc"):
    write(option("--out"), "config.yaml", words[1] + ".safetensors")
elif verb == "tune":
    write(option("--out"), "tune.json")
    write(option("--conf").parent, option("--conf").name)
elif verb == "compare":
    write(option("--out"), "compare.json", "compare.png")
elif verb == "results":
    option("--out").write_text("tables\\n")
"""
SETS = ("librispeech/train", "an4/train", "speechocean762/train", "tts/kathleen/train", "tts/kokoro/train",
        "librispeech/dev", "librispeech/test_other5", "an4/test", "speechocean762/test")  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The recipes, with corpora that hold a name."""
    copy_recipes(tmp_path, ("moonshine/heads1", "whisper/heads1", "an4/asr1"), SETS, "decode.yaml")
    install(tmp_path, VERBS)
    return tmp_path


def run(project: Path, name: str, *words: str, code: int = 0) -> tuple[str, list[str]]:
    """What a recipe prints with some options, and the commands that it ran."""
    environment = {
        "PATH": f"{project / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT),
        "SPEECHMTP_CORPORA": str(project),
    }  # fmt: skip
    recipe = project / "egs" / name
    (recipe / "calls").unlink(missing_ok=True)
    done = subprocess.run(
        ["./run.sh", *words], cwd=recipe, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    calls = (recipe / "calls").read_text().splitlines() if (recipe / "calls").exists() else []
    return done.stdout + done.stderr, calls


def test_every_stage_of_moonshine(project: Path) -> None:
    _, calls = run(project, "moonshine/heads1")
    trained = [call for call in calls if call.startswith("train heads")]
    names = [line.split()[0] for line in (ROOT / "egs/moonshine/heads1/conf/sets.txt").read_text().splitlines()
             if not line.startswith("#")]  # fmt: skip
    assert [call.split("--out ")[1].split()[0] for call in trained] == [f"exp/heads1/{name}" for name in names]
    shipped = trained[names.index("chain")]
    assert "--start exp/heads1/chain_ce" in shipped and "memories_2.safetensors" in shipped
    assert trained[0].endswith("passes=1") and "memories_1.safetensors" in trained[0]
    [tuned] = [call for call in calls if call.startswith("tune")]
    assert "tune data/tune --model default --all" in tuned and "--heads exp/heads1/chain --ctc exp/heads1/ctc" in tuned
    compared = [call for call in calls if call.startswith("compare")]
    assert [call.split()[1] for call in compared] == [
        f"data/{name}" for name in ("librispeech_dev", "librispeech_dev", "librispeech_other5", "an4_test",
                                    "speechocean_test", "librispeech_dev")
    ]  # fmt: skip
    assert ["--exact" in call for call in compared] == [False, False, True, True, True, False]
    assert "verify:depth=7,heads=block" in compared[-1] and "--heads exp/heads1/block" in compared[-1]
    assert calls[-1] == "results exp/heads1 --out RESULTS.md"
    out, again = run(project, "moonshine/heads1")
    assert out.count("up to date") >= 20 and not [call for call in again if call.startswith(("train", "tune"))]


def test_whisper_is_trained_on_a_part_of_the_same_data_without_a_ctc_head(project: Path) -> None:
    (project / "whisper").mkdir()
    _, calls = run(project, "whisper/heads1", "--stop-stage", "4", "--model", str(project / "whisper"))
    assert (project / "egs/whisper/heads1/data/readers").read_text() == "19 a\n"  # 1263 is held out
    assert [call.split()[1] for call in calls if call.startswith("train")] == ["heads"] * 3
    [tuned] = [call for call in calls if call.startswith("tune")]
    assert "--ctc" not in tuned


def test_without_corpora_it_says_what_is_missing(project: Path) -> None:
    shutil.rmtree(project / "tts/kokoro")
    out, _ = run(project, "moonshine/heads1", code=2)
    assert f"{project}/tts/kokoro/train: not there, a Kaldi data directory is expected" in out
