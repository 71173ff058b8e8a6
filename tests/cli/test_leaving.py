"""The program's end: what is registered for it runs, all output is written, and others are waited for."""

import pytest

from tests.cli.test_interrupts import outcome

LATE = "import atexit; atexit.register(lambda: print('late'))"
# A module is taken apart only by the interpreter's own end, and with it what only it holds.
WATCH = (
    "import os; Last = type('Last', (), {'__del__': lambda self, say=os.write: say(2, b'apart')}); "
    "sys.modules['watch'] = types.ModuleType('watch'); sys.modules['watch'].last = Last()"
)


def test_what_is_registered_runs_and_the_interpreter_is_left_as_it_is() -> None:
    assert outcome(f"{WATCH}; {LATE}") == (0, "said\nlate\n", "")


@pytest.mark.parametrize(
    "code",
    [
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.3), print('done'))).start()",
        "print('done'); sys.setprofile(lambda *given: None)",
    ],
    ids=["a thread", "a profiler"],
)
def test_the_interpreter_ends_as_usual_for_threads_and_profilers(code: str) -> None:
    assert outcome(f"{WATCH}; {LATE}; {code}") == (0, "said\ndone\nlate\n", "apart")


def test_the_exit_code_is_that_of_the_verb() -> None:
    assert outcome("return 5") == (5, "said\n", "")
