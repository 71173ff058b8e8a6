"""Settings of the whole test run: one thread, and the modules beside this one importable from every folder."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is loaded, and without loading it: tests of light modules stay light.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _auto_is_the_cpu() -> Iterator[None]:
    """What is checked is the same on a machine with a GPU; tests of GPUs name the device."""
    with pytest.MonkeyPatch.context() as patch:
        if Path("/dev/nvidiactl").exists():
            patch.setattr("speechmtp.api.has_cuda", lambda: False)
        yield


HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
