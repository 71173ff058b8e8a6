"""Every row of the option table, through bash, under a time limit (an endless loop must fail the test)."""

import os
import subprocess
from pathlib import Path

import pytest

LIB = Path(__file__).resolve().parents[2] / "recipes" / "lib"
SCRIPT = r"""
set -euo pipefail
help_message="Usage: demo %d"
cmd=run.py
# begin options
my_opt=old        # a text with 100 %d in it
nj=2              # jobs
cmd=run.py        # launcher
train=true        # whether to train
tiny=false        # flag: small run
tag=              # name
# end options
{before}
. "{lib}/parse_options.sh"
if false && begin_stage -1 download "from the net"; then :; fi
if false && begin_stage 8 train "the model"; then :; fi
printf '%s|' "$my_opt" "$nj" "$cmd" "$train" "$tiny" "$tag" "$@"
printf '\n%s\n' "$PATH"
"""


def run(folder: Path, *words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    script = folder / "demo.sh"
    script.write_text(SCRIPT.replace("{lib}", str(LIB)).replace("{before}", before), encoding="utf-8")
    return subprocess.run(
        ["bash", str(script), *words], cwd=folder, text=True, capture_output=True, timeout=20, check=False
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "old|2|run.py|true|false||"),
        (("--my-opt", "v"), "v|2|run.py|true|false||"),
        (("--my_opt", "v"), "v|2|run.py|true|false||"),
        (("--my-opt", "a", "--my-opt", "b"), "b|2|run.py|true|false||"),
        (("--train", "false"), "old|2|run.py|false|false||"),
        (("--tag", "--lr 2"), "old|2|run.py|true|false|--lr 2|"),
        (("--tag", "--unknown-word"), "old|2|run.py|true|false|--unknown-word|"),
        (("--tag", "-3"), "old|2|run.py|true|false|-3|"),
        (("--tag", "$(touch PWNED)"), "old|2|run.py|true|false|$(touch PWNED)|"),
        (("--tag", "`touch PWNED`;x\\n"), "old|2|run.py|true|false|`touch PWNED`;x\\n|"),
        (("--tag", 'a"b'), 'old|2|run.py|true|false|a"b|'),
        (("--tag", "a b'c"), "old|2|run.py|true|false|a b'c|"),
        (("--tag", ""), "old|2|run.py|true|false||"),
        (("--tiny",), "old|2|run.py|true|true||"),
        (("--tiny", "false"), "old|2|run.py|true|false||"),
        (("--tiny", "--nj", "3"), "old|3|run.py|true|true||"),
        (("--nj", "3", "--"), "old|3|run.py|true|false||"),
    ],
)
def test_accepted(tmp_path: Path, words: tuple[str, ...], expected: str) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == expected
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--my-opt=v",), "options to scripts must be of the form --name value, got '--my-opt=v'"),
        (("--nope", "v"), "invalid option --nope"),
        (("--my-otp", "v"), "did you mean --my-opt?"),
        (("--PATH", "x"), "invalid option --PATH"),
        (("--_po_names", "x"), "invalid option"),
        (("--@", "x"), "invalid option --@"),
        (("--a b", "x"), "invalid option --a b"),
        (("--$(touch PWNED)", "x"), "invalid option"),
        (("--train", "yes"), 'expected "true" or "false": --train yes'),
        (("--tiny", "yes"), "unexpected argument 'yes'"),
        (("--nj",), "option --nj needs a value"),
        (("--my-opt", "v", "--nj"), "option --nj needs a value"),
        (("--tag", "--nj"), "option --tag needs a value, found the option --nj"),
        (("--tag", "--config"), "option --tag needs a value, found the option --config"),
        (("--cmd", ""), "empty argument to --cmd option"),
        (("word",), "unexpected argument 'word'"),
        (("-x", "3"), "unexpected argument '-x'"),
        (("",), "unexpected argument ''"),
        (("--", "word"), "unexpected argument 'word'"),
        (("--config", "absent.yaml"), "--config absent.yaml: no such file"),
    ],
)
def test_refused(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "PWNED").exists()


def test_path_is_untouched(tmp_path: Path) -> None:
    done = run(tmp_path, "--nj", "3")
    assert done.stdout.splitlines()[1] == os.environ["PATH"]


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_is_literal(tmp_path: Path, word: str) -> None:
    done = run(tmp_path, "--nj", "7", word, "--nope")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "Usage: demo %d" in done.stdout
    assert "a text with 100 %d in it" in done.stdout
    rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if "--" in line}
    assert rows["--nj"] == "2"
    assert rows["--my-opt"] == "old"
    assert [line.split() for line in done.stdout.splitlines()[-2:]] == [
        ["-1", "download", "from", "the", "net"],
        ["8", "train", "the", "model"],
    ]


def test_positionals_where_allowed(tmp_path: Path) -> None:
    done = run(tmp_path, "--nj", "3", "a b", "--nj", "4", before="allow_positionals=true")
    assert done.stdout.splitlines()[0] == "old|3|run.py|true|false||a b|--nj|4|"
    done = run(tmp_path, "--nj", "3", "--", "--nj", "4", before="allow_positionals=true")
    assert done.stdout.splitlines()[0] == "old|3|run.py|true|false||--nj|4|"


def test_config_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("---\n# note\nmy-opt: from a  # why\nnj: 5\ntag: 'it''s # x'\n")
    (tmp_path / "b.yaml").write_text('nj: 6\ncmd: "a \\"b\\" \\\\"\ntrain: false')
    done = run(tmp_path, "--tag", "line", "--config", "a.yaml", "--config", "b.yaml")
    assert done.stdout.splitlines()[0] == 'from a|6|a "b" \\|false|false|line|'
    done = run(tmp_path, "--config", "b.yaml", "--config", "a.yaml")
    assert done.stdout.splitlines()[0] == 'from a|5|a "b" \\|false|false|it\'s # x|'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nj: 3\nnope: 1\n", "c.yaml:2: invalid option --nope"),
        ("train: yes\n", 'c.yaml:1: expected "true" or "false"'),
        ("nj:\n  - 1\n", "c.yaml:2: found '  - 1'"),
        ("nj: [1, 2]\n", "c.yaml:1: found '[1, 2]'"),
        ("my_opt=$(touch PWNED)\n", "c.yaml:1: found"),
    ],
)
def test_config_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    done = run(tmp_path, "--config", "c.yaml")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "PWNED").exists()
