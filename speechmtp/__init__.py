"""Speech language models that predict several tokens at once."""

import importlib

TYPE_CHECKING = False  # for type checkers, as that of typing, whose import would take as long as all else here
if TYPE_CHECKING:
    from typing import Any

    from speechmtp.api import Recogniser, load, load_voice
    from speechmtp.errors import SpeechMTPError
    from speechmtp.examples import example
    from speechmtp.shared import transcribe, transcribe_many
    from speechmtp.synthesis import Speech
    from speechmtp.transcripts import Segment, Transcript
    from speechmtp.words.word import Word

__version__ = "0.1.0"
__all__ = [
    "Recogniser", "Segment", "Speech", "SpeechMTPError", "Transcript", "Word", "__version__", "example",
    "load", "load_voice", "transcribe", "transcribe_many",
]  # fmt: skip

_MODULES = {
    "SpeechMTPError": "errors", "Segment": "transcripts", "Transcript": "transcripts", "transcribe": "shared",
    "transcribe_many": "shared", "example": "examples", "Word": "words.word", "Speech": "synthesis",
}  # fmt: skip


def __getattr__(name: str) -> "Any":
    """Public names on first use, so that importing the package does no work."""
    if name in __all__:
        from speechmtp.collector import paused_collector

        with paused_collector():
            module = importlib.import_module(f"speechmtp.{_MODULES.get(name, 'api')}")
        return getattr(module, name)
    raise AttributeError(f"module 'speechmtp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
