"""Generation settings of transformers folders: what is honoured, and what is refused since decoding would ignore it."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.errors import CheckpointError, ConfigError, SettingsWarning
from speechmtp.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import GenerationConfig

FILE = "generation_config.json"

# Settings that change greedy texts and that decoding does not know, each with the values that change nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "sequence_bias": ({}, []),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1.0,),
    "min_new_tokens": (0,),
    "min_length": (0,),
    "forced_eos_token_id": (),
    "force_words_ids": ([],),
    "constraints": ([],),
    "watermarking_config": (),
    "token_healing": (False,),
    "stop_strings": ([],),
    "max_time": (),
    "penalty_alpha": (0.0,),
    "dola_layers": (),
    "prompt_ids": (),
}
# More that a model with a prompt of its own refuses.
PROMPTED = ("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id")
_AT_DECODING = ("repetition_penalty", "no_repeat_ngram_size")  # `SamplingConfig` has these


def folder_settings(folder: Path) -> "GenerationConfig":
    """Return the settings of generation_config.json, or without that file those that old folders keep in config.json;
    CheckpointError if the file cannot be read."""
    from transformers import GenerationConfig

    name = FILE if (folder / FILE).exists() else "config.json"
    try:
        with quiet_transformers():
            return GenerationConfig.from_pretrained(
                str(folder), config_file_name=name, _from_model_config=name != FILE
            )  # fmt: skip
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder / name}: not generation settings ({reason}); copy it again whole") from error


# Names that generation_config.json of a plain recogniser has, and what else is read of it.
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
_LISTS = ("suppress_tokens", "begin_suppress_tokens")
_COUNTS = ("max_length", "max_new_tokens")
_OTHERS = ("_from_model_config", "output_attentions", "output_hidden_states", "transformers_version", "use_cache")
_ABSENT = frozenset({*_REFUSED, "num_beams", "do_sample"})


class PlainSettings:
    """The settings of a generation_config.json that has only plain ones, without transformers.

    Any attribute that it does not know is that of transformers' `GenerationConfig` with these settings, `whole`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.__dict__.update({**dict.fromkeys((*_IDS, *_LISTS, *_COUNTS)), **settings})

    def __getattr__(self, name: str) -> Any:
        if name in _ABSENT:
            return None
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.whole(), name)

    def whole(self) -> "GenerationConfig":
        """Return transformers' own object."""
        from transformers import GenerationConfig

        return GenerationConfig(**{name: value for name, value in self.__dict__.items() if value is not None})

    def to_json_file(self, path: str | Path) -> None:
        """Write the settings as transformers does."""
        self.whole().to_json_file(path)


def plain_settings(folder: Path) -> PlainSettings | None:
    """Return the settings of generation_config.json; None without the file, or if it has others than plain ones."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.keys() - {*_IDS, *_LISTS, *_COUNTS, *_OTHERS}:
        return None
    single = (*_IDS, *_COUNTS)
    fits = all(_whole(found.get(name)) for name in single if name != "eos_token_id")
    fits &= all(_whole(found.get(name), alone=False) for name in ("eos_token_id", *_LISTS))
    fits &= not any(isinstance(found.get(name), int) for name in _LISTS)
    return PlainSettings(found) if fits else None


def _whole(value: Any, alone: bool = True) -> bool:
    """Whether a setting is absent or a number from 0 on, or, unless `alone`, a list of such numbers."""
    numbers = value if isinstance(value, list) and not alone else [] if value is None else [value]
    return all(type(one) is int and one >= 0 for one in numbers)


def check_settings(folder: Path, settings: Any, more: Sequence[str] = ()) -> None:
    """Raise ConfigError for a setting that changes greedy texts and cannot be honoured, and warn of beam search and
    sampling. `more` are names of settings that this kind of model refuses too, unless they are false or empty."""
    for name, harmless in {**_REFUSED, **dict.fromkeys(more, (False, []))}.items():
        value = getattr(settings, name, None)
        if value is None or value in harmless:
            continue
        mend = f"remove it from {FILE}"
        if name in _AT_DECODING:
            mend += f", and give {name} when decoding (SamplingConfig, --{name.replace('_', '-')})"
        raise ConfigError(
            f"{folder}: {name}={_short(value)} in its generation settings would change the texts, and decoding does "
            f"not honour it; {mend}"
        )
    beams, drawn = getattr(settings, "num_beams", None) or 1, getattr(settings, "do_sample", None)
    asked = [f"num_beams={beams}"] * (beams > 1) + ["do_sample=true"] * (drawn is True)
    if asked:
        warnings.warn(
            f"{folder}: its generation settings ask for {' and '.join(asked)}; texts are greedy, unless decoding is "
            f"told to sample", SettingsWarning, stacklevel=2,
        )  # fmt: skip


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def known_ids(ids: Any, vocab_size: int) -> set[int]:
    """Return the token ids of a setting that the vocabulary has; transformers ignores the others."""
    return {int(one) for one in ids or () if 0 <= int(one) < vocab_size}


def end_tokens(folder: Path | str, settings: Any, config: Any) -> tuple[int, ...]:
    """Return the end tokens of generation settings, or else of a model's configuration; ConfigError for none."""
    for one in (settings, config.get_text_config()):
        found = getattr(one, "eos_token_id", None)
        if found is not None:
            return tuple(int(each) for each in (found if isinstance(found, (list, tuple)) else [found]))
    raise ConfigError(f"{folder}: no end token; set eos_token_id in its {FILE}")


def most_tokens(settings: Any, start_tokens: int) -> int | None:
    """Return the most new tokens that the settings allow behind `start_tokens` tokens; None if they set no limit."""
    if getattr(settings, "max_new_tokens", None) is not None:
        return int(settings.max_new_tokens)
    most = getattr(settings, "max_length", None)
    return None if most is None else int(most) - start_tokens
