"""Settings of the whole test run: one thread, and the modules beside this one importable from every folder."""

import os
import sys
from pathlib import Path

# Before torch is loaded, and without loading it: tests of light modules stay light.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
