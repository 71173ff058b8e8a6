"""Run the shell commands of data directories with limits on time, output and environment."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from speechmtp.errors import DataError

_OUTPUT_CAP = 1 << 30
_STDERR_TAIL = 1 << 16


def run_pipe(command: str, timeout: float) -> bytes:
    """Standard output of a shell command; DataError if it fails, takes longer than `timeout` seconds, or writes more
    than 1 GiB or nothing."""
    output, errors, complaint = run_program(["bash", "-o", "pipefail", "-c", command], timeout)
    if complaint is None and output:
        return output
    lines = errors.strip().splitlines()
    last = f" ({lines[-1].strip()})" if lines else ""
    raise DataError(f"{command} |: {complaint or 'no output'}{last}, expected audio; run the command by hand")


def run_program(arguments: Sequence[str | bytes], timeout: float) -> tuple[bytes, str, str | None]:
    """Standard output of a program, the end of its error output, and why it is not usable (None if it is): the exit
    code, more than `timeout` seconds, or more than 1 GiB of output. The program gets no input and only PATH and
    LC_ALL of the environment; it is killed with its children. OSError if it cannot be run."""
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    try:
        output, errors, complaint = _collect(process, time.monotonic() + timeout, timeout)
    finally:
        kill_group(process)
    if complaint is None and process.returncode:
        complaint = f"exit code {process.returncode}"
    return output, errors.decode("utf-8", errors="replace"), complaint


def environment() -> dict[str, str]:
    """What a program gets of the environment: PATH and LC_ALL."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": os.environ.get("LC_ALL", "C")}


def _collect(process: "subprocess.Popen[bytes]", deadline: float, timeout: float) -> tuple[bytes, bytes, str | None]:
    """Output, tail of the error output, and why the command was stopped (None if it ended by itself)."""
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = bytearray(), bytearray()
    late = f"still running after {timeout:g} s"
    with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, errors)
        while selector.get_map():
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                chunk = os.read(key.fd, 1 << 16)
                key.data.extend(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
            del errors[:-_STDERR_TAIL]
            if len(output) > _OUTPUT_CAP:
                return b"", bytes(errors), f"more than {_OUTPUT_CAP >> 20} MiB of output"
            if time.monotonic() >= deadline:
                return b"", bytes(errors), late
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return b"", bytes(errors), late
    return bytes(output), bytes(errors), None


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill the command and the processes that it left in the background."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
