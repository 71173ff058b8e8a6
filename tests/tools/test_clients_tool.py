"""The tool that runs unmodified clients: what it takes for right and wrong, and that it ends every client."""

import asyncio
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAID = "I opened my eyes upon a strange, and weird landscape. I knew that I was on Mars."


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/clients.py as a module."""
    spec = importlib.util.spec_from_file_location("clients_tool", ROOT / "tools" / "clients.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["clients_tool"] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


CASES = [
    ("one", {"text": SAID}, "refused", True),
    ("one", {"text": f"{SAID} {SAID}"}, "refused", False),
    ("one", {"text": SAID[:-5]}, "refused", False),
    ("one", {"refused": "503"}, "refused", False),
    ("two", {"text": f"{SAID} {SAID}"}, "refused", True),
    ("two", {"text": SAID}, "refused", False),
    ("abrupt", {}, "refused", True),
    ("full", {"refused": "503"}, "refused", True),
    ("full", {"refused": "429"}, "refused", False),
    ("full", {"text": SAID}, "refused", False),
    ("full", {"text": SAID}, "retries", True),
    ("full", {"refused": "503"}, "retries", False),
    ("full", {"refused": "503"}, "loses", True),
    ("full", {}, "loses", False),
    ("restart", {"text": SAID}, "refused", True),
    ("restart", {"text": ""}, "refused", False),
]


@pytest.mark.parametrize(("scenario", "told", "without_room", "right"), CASES)
def test_runs_are_judged(tool: ModuleType, scenario: str, told: dict[str, Any], without_room: str, right: bool) -> None:
    run = tool.Run(tool.Client("openai", "openai_sdk.py", "realtime", without_room=without_room), scenario, **told)
    assert (tool.judged(run, "") == "") is right
    if right and scenario in ("one", "two", "abrupt", "restart"):
        assert tool.judged(run, "a session stayed open") == "a session stayed open"


def test_every_client_has_a_script_and_an_environment(tool: ModuleType) -> None:
    assert {client.env for client in tool.CLIENTS} == set(tool.PACKAGES)
    assert all((tool.SCRIPTS / client.script).is_file() for client in tool.CLIENTS)
    assert all("==" in packages[0] for packages in tool.PACKAGES.values())


def played(tool: ModuleType, folder: Path, scenario: str, script: str) -> Any:
    """A run of a script in the place of a client."""
    (folder / "fake.py").write_text(script)
    run = tool.Run(tool.Client("openai", "fake.py", "part"), scenario)
    server = SimpleNamespace(address="http://127.0.0.1:1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "SCRIPTS", folder)
        asyncio.run(tool.play(run, Path(sys.executable), server, ["a.wav"], 1.0, 5.0))
    return run


def test_a_client_is_followed_and_its_failure_kept(tool: ModuleType, tmp_path: Path) -> None:
    script = """import json, sys
print("noise"); print(json.dumps({"version": "v 1"})); print(json.dumps({"begun": True}))
print(json.dumps({"text": " ".join(sys.argv[1:])})); sys.exit(int(sys.argv[-1] == "b.wav"))"""
    run = played(tool, tmp_path, "one", script)
    assert (run.text, run.version, run.problem) == ("part http://127.0.0.1:1 1.0 a.wav", "v 1", "")
    run = played(tool, tmp_path, "one", "raise ValueError('wrong')")
    assert run.problem == "exit code 1: ValueError: wrong"


def test_a_client_that_ends_abruptly_is_killed(tool: ModuleType, tmp_path: Path) -> None:
    script = f"""import os, time
open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
print('{{"begun": true}}', flush=True)
time.sleep(60)"""
    run = played(tool, tmp_path, "abrupt", script)
    assert run.problem == "" and run.seconds < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_table_has_a_line_a_client(tool: ModuleType) -> None:
    good, bad = tool.CLIENTS[:2]
    runs = [tool.Run(good, "one", version="v 1"), tool.Run(good, "two"), tool.Run(bad, "one", problem="no")]
    assert tool.table(runs, ["one", "two"]).splitlines()[2:] == [
        "| openai realtime | v 1 | ok | ok |", "| openai file | ? | FAILED |  |",
    ]  # fmt: skip
