"""Scripts of `benchmarks/` as modules."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "benchmarks"
EXAMPLES = ROOT / "speechmtp" / "assets" / "examples"


@contextmanager
def imported(*names: str) -> Iterator[list[Any]]:
    """Modules of these names; what was imported from the folder is forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield [import_module(name) for name in names]
        for path in SCRIPTS.glob("*.py"):
            sys.modules.pop(path.stem, None)
