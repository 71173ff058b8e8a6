"""The stages of egs/moonshine/live1 with stand-ins for the speechmtp program and the scripts of benchmarks/."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import copy_recipes, install

ROOT = Path(__file__).resolve().parents[2]
VERBS = """elif verb == "latency":
    write(option("--out"), "latency.json", "latency.png")
    if "--choose" in words:
        write(option("--choose").parent, option("--choose").name)
elif verb == "results":
    option("--out").write_text("tables\\n")
"""
SCRIPT = """import pathlib, os, sys
with open("calls", "a") as file:
    print(pathlib.Path(sys.argv[0]).stem, *sys.argv[1:], file=file)
if "--out" in sys.argv:
    out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
    out.mkdir(parents=True)
    (out / "latency.json").write_text(os.environ["PEERS"])
print("| a table |")
"""
SETS = ("librispeech/train", "librispeech/dev", "librispeech/test_other5", "tts/kokoro/dev", "noise/esc10")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The recipes and scripts, with corpora that hold a name."""
    copy_recipes(tmp_path, ("moonshine/live1", "moonshine/heads1", "an4/asr1"), SETS, "live.yaml")
    (tmp_path / "benchmarks").mkdir()
    for name in ("live_peers", "long_recordings", "word_times", "live_noise"):
        (tmp_path / "benchmarks" / f"{name}.py").write_text(SCRIPT)
    install(tmp_path, VERBS)
    return tmp_path


def run(project: Path, *words: str, code: int = 0) -> tuple[str, list[str]]:
    """What the recipe prints with some options, and the commands that it ran."""
    environment = {
        "PATH": f"{project / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT),
        "SPEECHMTP_CORPORA": str(project),
    }  # fmt: skip
    recipe = project / "egs/moonshine/live1"
    (recipe / "calls").unlink(missing_ok=True)
    done = subprocess.run(
        ["./run.sh", *words], cwd=recipe, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    calls = (recipe / "calls").read_text().splitlines() if (recipe / "calls").exists() else []
    return done.stdout + done.stderr, calls


def test_every_stage(project: Path) -> None:
    recipe = project / "egs/moonshine/live1"
    _, calls = run(project)
    assert (recipe / "data/dev_speakers").read_text() == "1263\n", "held out, and of LibriSpeech"
    chosen, *measured = [call for call in calls if call.startswith("latency")]
    assert "data/dev " in chosen and "--step 0.5 --grid conf/grid.yaml" in chosen and "--choose conf/live." in chosen
    assert [call.split()[1] for call in measured] == ["data/librispeech_dev", "data/librispeech_other5"]
    assert all("--conf conf/live.yaml --step 0.5,1.0" in call for call in measured)
    tables = {call.split()[0] for call in calls}
    assert {"long_recordings", "word_times", "live_noise"} <= tables and "live_peers" not in tables
    assert sorted(path.name for path in (recipe / "exp/live1/tables").glob("*.md")) == [
        "joined_by_tens.md", "noise.md", "word_times.md"
    ]  # fmt: skip
    assert calls[-1] == "results exp/live1 --out RESULTS.md" and (recipe / "latency.png").exists()
    out, again = run(project)
    assert out.count("up to date") >= 8 and not again, "nothing is run again"


def test_peers_are_measured_in_the_same_table(project: Path) -> None:
    _, calls = run(project, "--peers", "/somewhere", "--stop-stage", "3")
    assert [call.split()[0] for call in calls if "--step 0.5,1.0" in call] == ["live_peers"] * 2
    found = project / "egs/moonshine/live1/exp/live1/latency/librispeech_dev/latency.json"
    assert found.read_text() == "/somewhere"


def test_without_corpora_it_says_what_is_missing(project: Path) -> None:
    shutil.rmtree(project / "noise")
    out, calls = run(project, code=2)
    assert f"{project}/noise/esc10: not there" in out and not calls
