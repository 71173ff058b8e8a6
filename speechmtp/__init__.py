"""Speech language models that predict several tokens at once."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechmtp.api import Recogniser, example, load, transcribe

__version__ = "0.1.0"
__all__ = ["Recogniser", "__version__", "example", "load", "transcribe"]


def __getattr__(name: str) -> Any:
    """Names of `speechmtp.api` on first use, so that importing the package does no work."""
    if name in __all__:
        return getattr(importlib.import_module("speechmtp.api"), name)
    raise AttributeError(f"module 'speechmtp' has no attribute {name!r}")
