"""Settings of the whole test run: one thread, a cache of its own for compiled kernels, and the modules beside this one
importable from every folder."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is loaded, and without loading it: tests of light modules stay light.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
# Kernels are compiled once for all processes of a run, and of the next if their sources are the same.
os.environ["SPEECHMTP_CACHE"] = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "speechmtp")
if "CC" not in os.environ and not any(map(shutil.which, ("cc", "gcc", "clang"))):
    os.environ.setdefault("SPEECHMTP_KERNELS", "ref")  # what a missing compiler says is not in every test's output
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _auto_is_the_cpu() -> Iterator[None]:
    """What is checked is the same on a machine with a GPU; tests of GPUs name the device."""
    with pytest.MonkeyPatch.context() as patch:
        if Path("/dev/nvidiactl").exists():
            patch.setattr("speechmtp.devices.has_cuda", lambda: False)
        yield


HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
