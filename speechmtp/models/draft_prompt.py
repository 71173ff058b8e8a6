"""What a draft model needs of a request."""

from dataclasses import dataclass
from typing import ClassVar

from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, Source


@dataclass(frozen=True)
class DraftPrompt(Source):
    """A draft model's trunk, and its own prompt of the same utterance or text, one row."""

    trunk: Trunk
    prompt: Prompt
    name: ClassVar[str] = "model"
