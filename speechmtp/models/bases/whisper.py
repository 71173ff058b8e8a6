"""Whisper of transformers (arXiv 2212.04356): windows of 30 s, English-only or multilingual."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from speechmtp.config import Range
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.models.alignment import AttentionAlignment, Lag
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.bases.encoder_decoder import EncoderDecoder
from speechmtp.models.bases.generation_settings import FILE, check_settings, known_ids, most_tokens
from speechmtp.models.quiet import quiet_transformers
from speechmtp.text.hub_tokenizer import HubTokenizer
from speechmtp.types import Request, TokenRules

TASKS = ("transcribe", "translate")
ENGLISH_START, MULTILINGUAL_SIZE = 50257, 51865  # start token of English-only models, least vocabulary of the others


@dataclass(frozen=True)
class WhisperSettings:
    """`model` in config.yaml: the limits of the output length, and the default `language` and `task` of a multilingual
    model (empty: those of its generation settings); everything else is in transformers' own files."""

    kind: Literal["whisper"] = "whisper"
    tokens_per_second: Annotated[float, Range(0, 1000, above=True)] = 6.5
    extra: Annotated[int, Range(0, 1 << 16)] = 8
    language: str = ""
    task: Literal["", "transcribe", "translate"] = ""


class Whisper(EncoderDecoder):
    """Whisper without timestamps; if `multilingual`, language and task can be chosen."""

    kind: ClassVar[str] = "whisper"
    title: ClassVar[str] = "Whisper"
    settings: ClassVar[type] = WhisperSettings
    model_types: ClassVar[tuple[str, ...]] = ("whisper",)
    model_class: ClassVar[str] = "WhisperForConditionalGeneration"
    attention_lag: ClassVar[Lag] = Lag(0.11, 0.06)
    chosen_lag: ClassVar[Lag] = Lag(-0.005, -0.05)  # of the `alignment_heads` of the generation settings

    @property
    def state_seconds(self) -> float:
        """Seconds between states: two frames."""
        return 2 * int(self.extractor.hop_length) / self.rate

    def alignment(self) -> AttentionAlignment:
        """Return the `alignment_heads` of the generation settings, or without any all of the later layers."""
        named = getattr(self.generation, "alignment_heads", None) or ()
        heads = tuple((int(layer), int(head)) for layer, head in named)
        return AttentionAlignment(heads, self.chosen_lag) if heads else super().alignment()

    @classmethod
    def check(cls, folder: Path, sizes: Any, generation: Any, tokenizer: HubTokenizer) -> None:
        """See `EncoderDecoder.check`. Old settings lack ids, which are those of tokens in the tokenizer."""
        check_settings(folder, generation, ("return_timestamps", "no_speech_threshold"))
        for name, ids in _special_ids(sizes, generation, tokenizer):
            if getattr(generation, name, None) is None:
                if ids is None or ids == {}:
                    raise CheckpointError(
                        f"{folder}: cannot be loaded as whisper: no {name} in its {FILE}, and no such tokens in its "
                        f"tokenizer; copy both files of the model that it was trained from"
                    )
                setattr(generation, name, ids)
        language = getattr(generation, "language", None)
        if language is not None and not isinstance(language, str):
            raise ConfigError(f"{folder}: language={language!r} in its {FILE}, expected one name; give it as a string")
        forced = _forced_ids(generation, sizes)
        if forced and forced not in _prompts(generation):
            raise ConfigError(
                f"{folder}: forced_decoder_ids={forced} in its generation settings, expected language, task and no "
                f"timestamps as in Whisper's prompts; remove it, and give language and task"
            )

    @classmethod
    def extractor_of(cls, folder: Path, sizes: Any) -> Any:
        """Return the feature extractor of a folder, or without its file the one that fits the sizes."""
        from transformers import AutoFeatureExtractor, WhisperFeatureExtractor

        if any((folder / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
            with quiet_transformers():
                return AutoFeatureExtractor.from_pretrained(str(folder))
        return WhisperFeatureExtractor(sizes.num_mel_bins, chunk_length=sizes.max_source_positions // 50)

    def said(self, sizes: Any) -> TokenRules:
        """Return the token rules. Suppressed are the ids that the generation settings suppress, the timestamps, and the
        id before them; the end token is always allowed."""
        g: Any = self.generation
        self.multilingual = bool(g.is_multilingual)
        self._languages: dict[str, int] = dict(g.lang_to_id) if self.multilingual else {}
        self._tasks: dict[str, int] = dict(g.task_to_id) if self.multilingual else {}
        size, plain = int(sizes.vocab_size), int(g.no_timestamps_token_id)
        never = {*known_ids(g.suppress_tokens, size), *range(plain, size)} - {*self.eos}
        first = known_ids(g.begin_suppress_tokens, size) - never
        forced = [*_forced_ids(g, sizes), None, None]
        self._own_language, self._own_task = (
            getattr(g, name, None) or next((key for key, one in known.items() if one == forced[place]), "")
            for place, (name, known) in enumerate((("language", self._languages), ("task", self._tasks)))
        )
        return TokenRules(self.eos, tuple(sorted(never)), tuple(sorted(first)))

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes of the languages that a multilingual Whisper has tokens for, its own first, if it has one."""
        known = [name.removeprefix("<|").removesuffix("|>") for name in self._languages]
        own = self._language("") if self.multilingual else ""
        return tuple(sorted(known, key=lambda code: code != own))

    def start_tokens(self, language: str = "", task: str = "") -> tuple[int, ...]:
        """Return the start token, the language and task tokens of a multilingual model, and the no-timestamps token.
        ConfigError for a missing or unknown language, an unknown task, and for a choice in an English-only model."""
        settings: Any = self.generation
        plain = int(settings.no_timestamps_token_id)
        code, task = self._language(language), task or self.config.task or self._own_task or TASKS[0]
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
        """Return the code of a language given by code or English name, by default the model's own; ConfigError if it is
        unknown."""
        from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

        language = language or self.config.language or self._own_language
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
        return replace(request, language=self._language(language) or "en")

    def silence(self, language: str = "", task: str = "") -> Request:
        """Return the request as for every model, with the language's code."""
        self.start_tokens(language, task)
        return replace(super().silence(), language=self._language(language or self.config.language) or "en")

    @property
    def num_start_tokens(self) -> int:
        """The number of start tokens."""
        return 4 if self.multilingual else 2

    def inputs(self, samples: Tensor) -> Tensor:
        """Return frames [1, mels, 3000] of samples [N], padded with silence to 30 s. CheckpointError for settings with
        which the feature extractor cannot compute any."""
        try:
            found = self.extractor(samples.float().cpu().numpy(), sampling_rate=self.rate, return_tensors="pt")
        except (ValueError, TypeError, IndexError, MemoryError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{self.name}: its preprocessor_config.json gives no frames: {reason}; copy the folder again whole"
            ) from error
        frames: Tensor = found["input_features"]
        return frames.to(self.like())

    def transcript(self, text: str) -> list[int]:
        """Return the token ids of a text after a space, with which Whisper's outputs begin."""
        return self.encode(f" {text}" if text else "")

    def most_tokens(self) -> int | None:
        """Return the most tokens that the generation settings allow; Whisper's `generate` counts no start tokens."""
        return most_tokens(self.generation, 0)


def _special_ids(sizes: Any, generation: Any, tokenizer: HubTokenizer) -> Iterator[tuple[str, Any]]:
    """Yield the names of settings that Whisper needs, each with its value by the tokenizer, None or empty for none."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    yield "no_timestamps_token_id", tokenizer.id("<|notimestamps|>")
    languages = _ids_of([f"<|{code}|>" for code in LANGUAGES], tokenizer)
    # The tokenizers of English-only models have tokens of languages too, which the models never learnt.
    several = bool(languages) or int(sizes.vocab_size) >= MULTILINGUAL_SIZE
    yield "is_multilingual", several and EncoderDecoder.first_token(generation, sizes) != ENGLISH_START
    if generation.is_multilingual:
        tasks = _ids_of([f"<|{task}|>" for task in TASKS], tokenizer)
        yield "lang_to_id", languages
        yield "task_to_id", {piece[2:-2]: one for piece, one in tasks.items()}


def _ids_of(pieces: list[str], tokenizer: HubTokenizer) -> dict[str, int]:
    found = {piece: tokenizer.id(piece) for piece in pieces}
    return {piece: one for piece, one in found.items() if one is not None}


def _forced_ids(generation: Any, sizes: Any) -> list[int | None]:
    """Return the ids behind the start token that old settings force, None for a language to be detected; empty if there
    are none, or if the newer `language` or `task` replaces them."""
    if any(getattr(generation, name, None) is not None for name in ("language", "task")):
        return []
    own = getattr(generation, "forced_decoder_ids", None)
    forced = getattr(sizes, "forced_decoder_ids", None) if own is None else own
    return [one for _, one in forced or ()]


def _prompts(generation: Any) -> list[list[int | None]]:
    """Return what old settings may force: all that start tokens say, with or without the no-timestamps token."""
    plain = generation.no_timestamps_token_id
    if not generation.is_multilingual:
        return [[plain]]
    pairs = [[spoken, task] for spoken in (None, *generation.lang_to_id.values())
             for task in generation.task_to_id.values()]  # fmt: skip
    return pairs + [[*pair, plain] for pair in pairs]
