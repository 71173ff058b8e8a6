"""Ctrl-C leaves one line and exit code 130, whenever it comes and whatever is made of it."""

import os
import signal
import subprocess
import sys
import types
from typing import Any

import pytest

from speechmtp.cli.main import main

# A verb `demo` that runs the code of a test; `press` is Ctrl-C.
PROGRAM = """
import signal, sys, types
press = lambda: signal.raise_signal(signal.SIGINT)
def importing(does):
    class Finder:
        def find_spec(self, name, path, target=None):
            if name == "rarely":
                does()
    sys.meta_path.insert(0, Finder())
    import rarely
def run(args):
    print("said")
    {code}
    return 0
sys.modules["speechmtp.cli.demo"] = types.SimpleNamespace(add_arguments=lambda parser: None, run=run)
from speechmtp.cli.main import main
sys.argv = ["speechmtp", "demo"]
sys.exit(main())
"""
CALLED_BACK = (
    "import io, soundfile\n    class File(io.BytesIO):\n        def readinto(self, buffer): press(); return 0"
    "\n    soundfile.info(File(b'RIFF'))"
)
SWALLOWED = "try: press()\n    except BaseException: pass"


def outcome(code: str, **options: object) -> tuple[int, str, str]:
    """Exit code, standard output and error output of a program that runs the code in a verb."""
    program = [sys.executable, "-c", PROGRAM.format(code=code)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    given: Any = {"capture_output": True, "text": True, "timeout": 60, "env": buffered, **options}
    done = subprocess.run(program, check=False, **given)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "press()",
        "importing(press)",
        "try: importing(press)\n    except BaseException: print('went on')",
        "importing(lambda: exec('try: press()\\nexcept BaseException: raise SystemError'))",
        SWALLOWED,
        f"{SWALLOWED}\n    raise ImportError('what has become of it')",
        f"{SWALLOWED}\n    {SWALLOWED}\n    print('went on')",
        CALLED_BACK,
        "import atexit; atexit.register(press)",
    ],
    ids=["running", "importing", "a guarded import", "misread", "swallowed", "another error", "twice", "called back",
         "ending"],
)  # fmt: skip
def test_ctrl_c_is_one_line_and_130(code: str) -> None:
    assert outcome(code) == (130, "said\n", "speechmtp: interrupted\n")


def test_what_runs_is_cleaned_up() -> None:
    assert outcome("try: press()\n    finally: print('closed')")[1] == "said\nclosed\n"


def test_a_background_job_that_ignores_ctrl_c_goes_on() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    assert outcome("press()", preexec_fn=ignore) == (0, "said\n", "")


def test_called_from_python_the_handler_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)

    def run(args: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    verb = types.SimpleNamespace(add_arguments=lambda parser: None, run=run)
    monkeypatch.setitem(sys.modules, "speechmtp.cli.demo", verb)
    assert main(["demo"]) == 130 and capsys.readouterr().err == "speechmtp: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is before
