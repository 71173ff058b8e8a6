"""Qwen2-Audio of transformers (arXiv 2407.10759): a prompt of audio, followed by an instruction.

Its own processor and forward pass make the prompt; a hook on its language model records the prompt's entries.
"""

import threading
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from speechmtp.audio.features import FbankConfig
from speechmtp.config import Range
from speechmtp.errors import CheckpointError
from speechmtp.models.bases.contract import InputKind, SpeechModel
from speechmtp.models.bases.folders import has_chat_template, loaded, saved
from speechmtp.models.bases.generation_settings import PROMPTED, check_settings, end_tokens, most_tokens
from speechmtp.models.quiet import quiet_transformers
from speechmtp.models.storage import Storage
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, Request

AUDIO = "<|audio_bos|><|AUDIO|><|audio_eos|>"


@dataclass(frozen=True)
class Qwen2AudioSettings:
    """`model` in config.yaml: the instruction, and the limits of the output length, at most
    ceil(`tokens_per_second` * seconds) + `extra` tokens. Everything else is in transformers' own files."""

    kind: Literal["qwen2_audio"] = "qwen2_audio"
    instruction: str = "Transcribe the speech."
    tokens_per_second: Annotated[float, Range(0, 1000, above=True)] = 10.0
    extra: Annotated[int, Range(0, 1 << 16)] = 20


_HERE = threading.local()  # per thread, since other threads may run the same decoder


class _Seen(Exception):
    """Raised once the entries of a prompt are recorded, so that the language model does not run."""


def _look(module: Any, args: Any, given: dict[str, Any]) -> None:
    """A forward pre-hook of the decoder, registered once: while its thread is recording, it records the decoder's
    arguments and raises `_Seen`."""
    seen = getattr(_HERE, "seen", None)
    if seen is not None:
        seen.update(given)
        raise _Seen


class Qwen2Audio(SpeechModel):
    """Qwen2-Audio from a transformers folder, with its processor."""

    kind: ClassVar[str] = "qwen2_audio"
    title: ClassVar[str] = "Qwen2-Audio"
    input_kind: ClassVar[InputKind] = "prompts"
    settings: ClassVar[type] = Qwen2AudioSettings
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_audio",)

    def __init__(
        self, config: Qwen2AudioSettings, model: Any, processor: Any, eos: tuple[int, ...], chat: bool
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.trunk, self.processor, self.eos, self.chat = config, Trunk(model), processor, eos, chat
        self.tokenizer, extractor = processor.tokenizer, processor.feature_extractor
        self.rate, self.longest = int(extractor.sampling_rate), float(extractor.chunk_length)
        model.get_decoder().register_forward_pre_hook(_look, with_kwargs=True)
        self.shortest = 7 * int(extractor.hop_length)  # two entries: transformers handles one differently

    @classmethod
    def load(cls, folder: Path, config: Qwen2AudioSettings, features: FbankConfig | None) -> "Qwen2Audio":
        """Load a folder of transformers' files or ours; CheckpointError if model or processor cannot be loaded."""
        from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

        model = loaded(Qwen2AudioForConditionalGeneration, folder, cls.title)
        settings = model.generation_config
        check_settings(folder, settings, PROMPTED)
        try:
            with quiet_transformers():
                processor = AutoProcessor.from_pretrained(str(folder))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{folder}: its processor cannot be loaded: {reason}") from error
        model.requires_grad_(False)
        ends = end_tokens(folder, settings, model.config)
        return cls(config, model, processor, ends, has_chat_template(folder)).eval()

    def save(self, folder: Path, storage: Storage) -> None:
        """Write model and processor."""
        saved(self.trunk.model, folder, storage)
        with quiet_transformers():
            self.processor.save_pretrained(folder)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Any) -> str:
        """Return the text of ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def inputs(self, samples: Tensor) -> dict[str, Tensor]:
        """Return the arguments of the model's own forward and `generate` for samples [N]."""
        found: Any = self.processor(
            text=self.text(), audio=samples.float().cpu().numpy(), sampling_rate=self.rate, return_tensors="pt"
        )
        return {name: value.to(self.device) for name, value in found.items()}

    def text(self) -> str:
        """Return the prompt's text, by the chat template if the folder has one."""
        if not self.chat:
            return f"{AUDIO}{self.config.instruction}"
        parts = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": self.config.instruction}]
        turns = [{"role": "user", "content": parts}]
        text: str = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return text

    def limit(self, seconds: float) -> int:
        """Return the most tokens to emit for so many seconds of audio, the end token included."""
        return max(1, ceil(self.config.tokens_per_second * seconds) + self.config.extra)

    @torch.no_grad()
    def listen(self, samples: Tensor, language: str = "", task: str = "", draft: SpeechModel | None = None) -> Request:
        """Return the request with the entries that the language model would be given."""
        self.no_choice(language, task)
        inputs = self.inputs(samples)
        embeddings, positions = self._entries(inputs)
        rows, size = positions.shape
        full = torch.full((rows,), size, device=positions.device)
        prompt = Prompt(embeddings, positions, full, positions[:, -1] + 1)
        ids = tuple(inputs["input_ids"][0].tolist())
        limit, most = self.limit(len(samples) / self.rate), most_tokens(self.trunk.model.generation_config, len(ids))
        return Request(prompt, self.rules, limit if most is None else max(1, min(limit, most)), ids)

    def _entries(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the embeddings [1, P, C] and positions [1, P] that reach the language model."""
        seen: dict[str, Any] = {}
        _HERE.seen = seen
        try:
            self.trunk.model(**inputs, use_cache=False)
        except _Seen:
            pass
        finally:
            _HERE.seen = None
        embeddings: Tensor = seen["inputs_embeds"]
        positions: Tensor | None = seen.get("position_ids")
        steps = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
        return embeddings, steps if positions is None else positions
