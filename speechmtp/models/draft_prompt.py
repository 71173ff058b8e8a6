"""The source from which a draft model drafts."""

from dataclasses import dataclass
from typing import ClassVar

from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, Source


@dataclass(frozen=True)
class DraftPrompt(Source):
    """A draft model's trunk, and its own prompt (one row) of the same utterance or text."""

    trunk: Trunk
    prompt: Prompt
    name: ClassVar[str] = "model"
