"""Memory that was freed between what stays is given back."""

import subprocess
import sys
from pathlib import Path

import pytest

from speechmtp.heap import give_back

CODE = """
import numpy as np
from pathlib import Path
from speechmtp.heap import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) >> 8  # MiB

kept, freed = [], []
for _ in range(3000):
    kept.append(np.ones(1000))
    freed.append(np.ones(10000))
before = resident()
freed.clear()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_what_lies_between_what_stays_is_given_back() -> None:
    give_back()
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=Path.cwd(), check=True)
    assert int(found.stdout) > 150, "of 229"
