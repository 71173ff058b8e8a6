"""The stages of egs/kokoro/tts1 with a stand-in for the speechmtp program and for the measures."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import install

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
elif verb == "data validate" or verb == "data stats":
    print(verb)
elif words[:2] == ["codec", "encode"]:
    option("--out").write_text("x 1 2 3\\n")
elif words[:2] == ["codec", "decode"]:
    write(option("--out"), "x.wav")
elif verb in ("train tts", "train codec"):
    write(option("--out") / "model", "config.yaml")
elif verb == "train heads":
    write(option("--out"), "config.yaml")
elif verb == "speak":
    write(option("--out"), "x.wav")
else:
    sys.exit(f"unknown verb {verb}")
"""
TOOL = """
import pathlib, sys
words = sys.argv[1:]
with open("calls", "a") as file:
    print(pathlib.Path(sys.argv[0]).name, *words, file=file)
outs = [pathlib.Path(words[n + 1]) for n, word in enumerate(words) if word in ("--out", "--table", "--recordings")]
if pathlib.Path(sys.argv[0]).name in ("lines.py", "phones.py"):
    outs.append(pathlib.Path(words[1]))
for out in outs:
    if out.suffix in (".json", ".md", ".txt"):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("x y\\n")
    elif not out.exists():
        out.mkdir(parents=True)
        (out / "config.yaml").write_text("x")
if sys.argv[0].endswith("measure.py"):
    for row in words[: words.index("--texts")]:
        pathlib.Path(row + ".measures").mkdir(exist_ok=True)
        pathlib.Path(row + ".measures/read_back.json").write_text("x")
if sys.argv[0].endswith("others.py"):
    pathlib.Path(words[2]).mkdir(parents=True, exist_ok=True)
    if "--data" in words:
        data = pathlib.Path(words[words.index("--data") + 1])
        data.mkdir(parents=True, exist_ok=True)
        (data / "frames").write_text("x 1")
"""
TABLES = {"wav.scp": "a/{}.opus", "text": "Hello.", "phones": "{}", "frames": "1 2", "utt2spk": "af_heart",
          "utt2speed": "1.00", "utt2dur": "1.0"}  # fmt: skip
PHONES = {"h-1": "həlˈO", "h-2": " ˈO", "h-3": "ˈO  hI", "h-4": "hˈI ðˈɛɹ"}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe folder, with a corpus of four utterances, two of which lost words, and one of another voice."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(ROOT / "egs/kokoro", tmp_path / "egs/kokoro", ignore=shutil.ignore_patterns("data", "exp"))
    for name in ("lines", "phones", "others", "measure", "pitch", "choose", "with_heads", "results"):
        (tmp_path / "tools/voice_eval").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"tools/voice_eval/{name}.py").write_text(TOOL)
    for name in ("train", "dev"):
        folder = tmp_path / "corpora/tts/kokoro" / name
        folder.mkdir(parents=True)
        for table, value in TABLES.items():
            rows = [f"{key} {value.format(phones if table == 'phones' else key)}\n" for key, phones in PHONES.items()]
            other = "am_michael" if table == "utt2spk" else value.format("x")
            (folder / table).write_text("".join(rows) + f"m-1 {other}\n")
    install(tmp_path, PROGRAM)
    return tmp_path / "egs/kokoro/tts1"


def run(recipe: Path, *words: str, code: int = 0) -> tuple[list[str], list[str]]:
    """The lines that the recipe prints with some options, and the calls of programs, temporary names made plain."""
    root = recipe.parents[2]
    environment = {"PATH": f"{root / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT),
                   "SPEECHMTP_CORPORA": str(root / "corpora"), "PEERS": ""}  # fmt: skip
    done = subprocess.run(
        [str(recipe / "run.sh"), *words], cwd="/", text=True, capture_output=True, timeout=100, check=False,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    calls = recipe / "calls"
    seen = calls.read_text() if calls.exists() else ""
    calls.unlink(missing_ok=True)
    plain = re.sub(r"\.tmp-\d+", "", seen).replace(str(root), "ROOT")
    return (done.stdout + done.stderr).splitlines(), plain.splitlines()


def test_every_stage_then_none(recipe: Path) -> None:
    words = ["--temperatures", "0.8", "--top-ks", "20", "--seeds", "0 1"]
    lines, seen = run(recipe, *words)
    for expected in (
        "codec encode data/train --out data/train/tokens",
        "train tts --config conf/train.yaml --train data/train --dev data/dev --out exp/train/voice --storage int8",
        "train heads --model exp/train/tuned --config conf/heads.yaml --train data/train --dev data/dev "
        "--out exp/train/heads",
        "with_heads.py --model exp/train/tuned --heads exp/train/heads --strategy verify:depth=5 --out exp/train/model",
        "speak data/tune.txt --lines --voice exp/train/voice/model --out exp/train/rows/tune/t0.8_k20 "
        "--temperature 0.8 --top-k 20",
        "codec decode data/dev --out exp/train/rows/round_trip",
        "speak data/spoken.txt --lines --voice exp/train/model --out exp/train/rows/voice_1 --seed 1",
        "pitch.py exp/train/rows/voice_0 exp/train/rows/voice_1 --texts data/spoken.txt --out exp/train/melody.json",
    ):
        assert expected in seen, "\n".join(seen)
    [results] = [line for line in seen if line.startswith("results.py")]
    assert (
        "--teacher exp/train/rows/teacher.measures --row codec round trip=exp/train/rows/round_trip.measures" in results
    )
    assert "--row voice:1=exp/train/rows/voice_1.measures" in results and "--out RESULTS.md" in results
    assert not [line for line in seen if line.startswith("others.py")]
    measured = " ".join(f"exp/train/rows/{name}" for name in ("teacher", "round_trip", "voice_0", "voice_1"))
    assert f"measure.py {measured} --texts data/spoken.txt --opinions 50" in seen
    phones = (recipe / "data/train/phones").read_text()
    assert phones == "h-1 həlˈO\nh-4 hˈI ðˈɛɹ\n"  # without those that lost words, and without the other voice
    audio = recipe.parents[2] / "corpora/a/h-1.opus"
    assert (recipe / "data/train/wav.scp").read_text().splitlines()[0] == f"h-1 {audio}"
    headings = [line.split()[1] for line in lines if line.startswith("stage") and ": running" not in line]
    assert list(dict.fromkeys(headings)) == [str(n) for n in range(15) if n not in (5, 6)]
    assert (recipe / "exp/train/pack/kokoro_train.tar.gz").exists()
    lines, seen = run(recipe, *words)
    assert not [line for line in lines if ": running (" in line] and seen == []


@pytest.mark.slow
def test_the_teacher_speaks_where_it_is_there(recipe: Path) -> None:
    """Its row is a data directory, which the codec encodes; a codec of one's own is trained and used."""
    (recipe / "conf/codec.yaml").write_text("steps: 1\n")
    words = ["--seeds", "0", "--temperatures", "0.8", "--top-ks", "0", "--style", "v.bin", "--others", "hibari"]
    _, seen = run(recipe, *words, "--codec-config", "conf/codec.yaml")
    codec = "--codec exp/train/codec/model"
    for expected in (
        "train codec --config conf/codec.yaml --init none --train data/for_codec/train "
        "--dev data/for_codec/dev --out exp/train/codec",
        f"codec encode data/train --out data/train/tokens {codec}",
        "others.py kokoro data/phones.txt exp/train/rows/teacher --style v.bin --data data/teacher --texts "
        "conf/sentences.txt",
        f"codec encode data/teacher --out data/teacher/tokens {codec}",
        f"codec decode data/teacher --out exp/train/rows/round_trip {codec}",
        "others.py hibari data/phones.txt exp/train/rows/hibari",
        "speak conf/sentences.txt --lines --voice exp/train/model --out exp/train/rows/voice_0 --seed 0",
    ):
        assert expected in seen, "\n".join(seen)
    assert any("--row hibari=exp/train/rows/hibari.measures" in line for line in seen if line.startswith("results.py"))


def test_a_corpus_that_is_not_there_is_named(recipe: Path) -> None:
    lines, _ = run(recipe, "--data-args", "--corpora /none", code=2)
    assert any("/none: no tts/kokoro in it" in line for line in lines)
