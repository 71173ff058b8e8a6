"""Import the optional torchaudio, even if its compiled part does not load.

Its published wheel is built for CUDA, and beside a CPU-only torch a plain `import torchaudio` raises OSError. The
Python part works without the compiled one, so the import is retried with a stand-in for it.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_EXTENSION = "torchaudio._extension"


def import_torchaudio() -> ModuleType | None:
    """The torchaudio module, or None if it is not installed or cannot be imported even with the stand-in.

    With the stand-in, functions that need the compiled part (such as `forced_align`) raise RuntimeError when called. A
    failed import leaves nothing of torchaudio in `sys.modules`.
    """
    if sys.modules.get("torchaudio", sys) is None:
        # None in `sys.modules` is Python's way to block a module; respect it.
        return None
    module = _try_import()
    if module is not None:
        return module
    sys.modules[_EXTENSION] = _extension_stand_in()
    return _try_import()


def _try_import() -> ModuleType | None:
    """Import torchaudio; on failure, remove its partly imported modules and return None."""
    try:
        return importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError, AttributeError):
        for name in [name for name in sys.modules if name.split(".", 1)[0] == "torchaudio"]:
            del sys.modules[name]
        return None


def _extension_stand_in() -> ModuleType:
    """A module that declares all compiled parts of torchaudio as missing."""
    module: Any = ModuleType(_EXTENSION)
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module._IS_RNNT_AVAILABLE = False
    module.fail_if_no_align = _always_raise
    module.fail_if_no_rnnt = _always_raise
    module._check_cuda_version = _no_cuda_version
    extension: ModuleType = module
    return extension


def _always_raise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Stand-in for the decorators that guard compiled functions."""

    def missing(*_args: Any, **_kwargs: Any) -> Any:
        """Raise RuntimeError: the compiled part is missing."""
        name = getattr(function, "__name__", "this function")
        raise RuntimeError(f"torchaudio: {name} needs its compiled part, which does not load beside this torch")

    return missing


def _no_cuda_version() -> None:
    """Stand-in for the check of CUDA versions, which has nothing to compare."""
