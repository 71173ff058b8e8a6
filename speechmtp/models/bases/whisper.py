"""Whisper of transformers (arXiv 2212.04356): windows of 30 s, English-only or multilingual."""

import difflib
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from speechmtp.errors import ConfigError
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.bases.encoder_decoder import EncoderDecoder
from speechmtp.types import Request, TokenRules

TASKS = ("transcribe", "translate")


@dataclass(frozen=True)
class WhisperSettings:
    """`model` in config.yaml: the limits of the output length, and the default `language` and `task` of a multilingual
    model; everything else is in transformers' own files."""

    kind: Literal["whisper"] = "whisper"
    tokens_per_second: float = 6.5
    extra: int = 8
    language: str = ""
    task: Literal["transcribe", "translate"] = "transcribe"


class Whisper(EncoderDecoder):
    """Whisper without timestamps; if `multilingual`, language and task can be chosen."""

    kind: ClassVar[str] = "whisper"
    title: ClassVar[str] = "Whisper"
    settings: ClassVar[type] = WhisperSettings
    model_types: ClassVar[tuple[str, ...]] = ("whisper",)
    model_class: ClassVar[str] = "WhisperForConditionalGeneration"
    extracts: ClassVar[bool] = True

    def said(self, settings: Any) -> TokenRules:
        """Return the token rules. Suppressed are the ids that the generation settings suppress, the timestamps, and the
        id before them; the end token is always allowed."""
        g: Any = self.generation
        self.multilingual = bool(getattr(g, "is_multilingual", int(settings.vocab_size) >= 51865))
        self._languages: dict[str, int] = dict(g.lang_to_id) if self.multilingual else {}
        self._tasks: dict[str, int] = dict(g.task_to_id) if self.multilingual else {}
        plain = int(g.no_timestamps_token_id)
        never = {*map(int, g.suppress_tokens or ()), plain, *range(plain + 1, int(settings.vocab_size))} - {*self.eos}
        first = set(map(int, g.begin_suppress_tokens or ())) - never
        return TokenRules(self.eos, tuple(sorted(never)), tuple(sorted(first)))

    def start_tokens(self, language: str = "", task: str = "") -> tuple[int, ...]:
        """Return the start token, the language and task tokens of a multilingual model, and the no-timestamps token.
        ConfigError for a missing or unknown language, an unknown task, and for a choice in an English-only model."""
        settings: Any = self.generation
        plain = int(settings.no_timestamps_token_id)
        code, task = self._language(language or self.config.language), task or self.config.task
        if task not in TASKS:
            raise ConfigError(f"{self.name}: task={task!r}: expected one of {', '.join(TASKS)}")
        if not self.multilingual:
            if code not in ("", "en") or task != "transcribe":
                found = f"language={code!r}" if code not in ("", "en") else f"task={task!r}"
                raise ConfigError(
                    f"{self.name}: {found}: an English-only Whisper; leave it out, or take a multilingual one"
                )
            return self.start, plain
        if not code:
            raise ConfigError(
                f"{self.name}: a multilingual Whisper, and no language is given; say language='en' (or another), or "
                f"put model.language into its config.yaml"
            )
        spoken, asked = self._languages.get(f"<|{code}|>"), self._tasks.get(task)
        if spoken is None or asked is None:
            found = f"language={code!r}" if spoken is None else f"task={task!r}"
            raise ConfigError(f"{self.name}: {found}: this Whisper has no token for it; choose another")
        return self.start, spoken, asked, plain

    def _language(self, language: str) -> str:
        """Return the code of a language given by code or English name; ConfigError if it is unknown."""
        from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

        text = language.strip().lower().removeprefix("<|").removesuffix("|>")
        if not text or text in LANGUAGES:
            return text
        if text not in TO_LANGUAGE_CODE:
            near = difflib.get_close_matches(text, [*LANGUAGES, *TO_LANGUAGE_CODE], n=1)
            hint = f"did you mean {near[0]}?" if near else "give a code such as en, de or zh"
            raise ConfigError(f"{self.name}: language={language!r}: Whisper knows no such language; {hint}")
        code: str = TO_LANGUAGE_CODE[text]
        return code

    def listen(self, samples: Tensor, language: str = "", task: str = "", draft: SpeechModel | None = None) -> Request:
        """Return the request as for every encoder-decoder, with the language's code."""
        request = super().listen(samples, language, task, draft)
        return replace(request, language=self._language(language or self.config.language) or "en")

    @property
    def num_start_tokens(self) -> int:
        """The number of start tokens."""
        return 4 if self.multilingual else 2

    def inputs(self, samples: Tensor) -> Tensor:
        """Return frames [1, mels, 3000] of samples [N], padded with silence to 30 s."""
        found = self.extractor(samples.float().cpu().numpy(), sampling_rate=self.rate, return_tensors="pt")
        frames: Tensor = found["input_features"]
        return frames.to(self.like())

    def transcript(self, text: str) -> list[int]:
        """Return the token ids of a text after a space, with which Whisper's outputs begin."""
        return self.encode(f" {text}" if text else "")
