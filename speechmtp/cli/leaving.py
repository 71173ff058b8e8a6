"""The end of the program without taking the interpreter apart, which takes a third of a second after PyTorch."""

import atexit
import os
import sys
import threading

from speechmtp.cli.streams import release_streams


def leave(code: int) -> None:
    """Run what is registered for the end, flush the streams and end the process with this exit code.

    Returns, for the interpreter to end as usual, where another thread is waited for, or while a debugger, a profiler or
    a coverage tool watches.
    """
    others = [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
    if others or sys.gettrace() is not None or sys.getprofile() is not None:
        return
    atexit._run_exitfuncs()
    release_streams()
    os._exit(code)
