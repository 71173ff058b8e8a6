"""Sides of a comparison: how they are named, what their processes are started with, who is first."""

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts import ROOT, imported

from speechmtp.errors import ConfigError


@pytest.fixture
def sides() -> Iterator[Any]:
    """The module."""
    with imported("sides") as [module]:
        yield module


def test_a_side_is_a_name_a_checkout_and_kernels(sides: Any) -> None:
    old, new = sides.parse_sides(["old=../old", "new=.,ref"])
    assert (old.name, old.checkout, old.settings) == ("old", Path("../old"), {})
    assert (new.name, new.checkout, new.settings) == ("new", Path("."), {"SPEECHMTP_KERNELS": "ref"})
    assert "SPEECHMTP_KERNELS=ref" in new.told and "SPEECHMTP" not in old.told


@pytest.mark.parametrize("given", [["old"], ["=here"], ["old="], ["old=.", "old=..,ref"]])
def test_a_wrong_side_is_an_error(sides: Any, given: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^side "):
        sides.parse_sides(given)


def test_each_is_first_as_often_as_the_others(sides: Any) -> None:
    orders = [list(sides.turns("abc", number)) for number in range(6)]
    assert sorted(order[0] for order in orders) == sorted("aabbcc")
    assert all(sorted(order) == list("abc") for order in orders) and not list(sides.turns([], 3))


class Process:
    """A process that has said its answers already."""

    def __init__(self, said: str) -> None:
        self.stdin, self.stdout = io.StringIO(), io.StringIO(said)


def test_a_process_has_its_settings_and_its_cores(sides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting without a value is taken out; an answer may be an error."""
    started: list[tuple[list[str], dict[str, str]]] = []

    def popen(words: list[str], env: dict[str, str], **_: Any) -> Process:
        started.append((words, env))
        return Process('{"a": 1}\n{"error": "no such model"}\n')

    monkeypatch.setattr(subprocess, "Popen", popen)
    worker = sides.Worker(ROOT, "step_side.py", {"SPEECHMTP_KERNELS": "ref", "OMP_NUM_THREADS": ""}, [3])
    [(words, env)] = started
    assert words[:3] == ["taskset", "--cpu-list", "3"] and words[-1].endswith("benchmarks/step_side.py")
    assert env["SPEECHMTP_KERNELS"] == "ref" and env["MKL_NUM_THREADS"] == "1" and env["PYTHONPATH"] == str(ROOT)
    assert "OMP_NUM_THREADS" not in env
    assert worker.ask(part="x") == {"a": 1} and worker.process.stdin.getvalue() == '{"part": "x"}\n'
    with pytest.raises(ConfigError, match="no such model"):
        worker.ask(part="y")
    with pytest.raises(ConfigError, match="its process ended"):
        worker.ask(part="z")


def test_a_package_with_changes_has_no_name(sides: Any, tmp_path: Path) -> None:
    assert sides.package_of(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "speechmtp").mkdir()
    (tmp_path / "speechmtp" / "one.py").write_text("1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    name = sides.package_of(tmp_path)
    assert name and len(name) == 40
    (tmp_path / "notes").write_text("outside the package\n")
    assert sides.package_of(tmp_path) == name
    (tmp_path / "speechmtp" / "one.py").write_text("2\n")
    assert sides.package_of(tmp_path) is None
