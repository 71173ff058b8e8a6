"""Run the shell commands of data directories with limits on time, output and environment."""

import os
import selectors
import signal
import struct
import subprocess
import time
from contextlib import suppress

from speechmtp.errors import DataError

# Encoders that stream write such lengths, since they cannot know the true one.
_STREAMED_LENGTH = 0x7FFFF000
_OUTPUT_CAP = 1 << 30
_STDERR_TAIL = 1 << 16


def run_pipe(command: str, timeout: float) -> bytes:
    """Standard output of a shell command; DataError if it fails, takes longer than `timeout` seconds, or writes more
    than 1 GiB or nothing."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": os.environ.get("LC_ALL", "C")}
    process = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        output, errors, complaint = _collect(process, time.monotonic() + timeout, timeout)
    finally:
        _kill_group(process)
    if complaint is None and process.returncode == 0 and output:
        return output
    found = complaint or (f"exit code {process.returncode}" if process.returncode else "no output")
    lines = errors.decode("utf-8", errors="replace").strip().splitlines()
    last = f" ({lines[-1].strip()})" if lines else ""
    raise DataError(f"{command} |: {found}{last}, expected audio; run the command by hand")


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


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill the command and the processes that it left in the background."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def mend_wav_lengths(where: str, data: bytes) -> bytes:
    """WAV bytes with correct lengths in the header; other formats and valid headers are returned unchanged. DataError
    if samples are missing at the end."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return data
    (riff_length,) = struct.unpack_from("<I", data, 4)
    position = 12
    while position + 8 <= len(data):
        name, (length,) = data[position : position + 4], struct.unpack_from("<I", data, position + 4)
        begin = position + 8
        if name == b"data":
            available = len(data) - begin
            streamed = length >= _STREAMED_LENGTH or (length == 0 and riff_length != len(data) - 8)
            if streamed:
                sizes = (struct.pack("<I", len(data) - 8), struct.pack("<I", available))
                return data[:4] + sizes[0] + data[8 : position + 4] + sizes[1] + data[begin:]
            if length > available:
                raise DataError(
                    f"{where}: {available} bytes of samples, expected {length} by the WAV header; it is cut short"
                )
            return data
        position = begin + length + (length & 1)
    return data
