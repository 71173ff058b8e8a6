"""Generation settings of a folder: texts are those of transformers' own greedy `generate`, or one line says why not."""

import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from byte_whisper import write_byte_whisper
from engine_runs import generate
from small_audio_lm import write_audio_lm
from small_lm import load_lm, write_lm
from transformers import GenerationConfig, MoonshineConfig, MoonshineForConditionalGeneration
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoderModelOutput

from speechmtp.bundle import load_without_heads
from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.evaluation.peers import run_peer
from speechmtp.models.bases.encoder_decoder import EncoderDecoder
from speechmtp.models.bases.generation_settings import check_settings
from speechmtp.models.bases.moonshine import Moonshine

LIMIT, SEEDS = 12, (15, 26)  # of both Moonshines the text ends, and every setting changes it
FAR = (-1, 999)  # ids that no vocabulary has
MOONSHINE: dict[str, dict[str, Any]] = {
    "none": {},
    "suppressed": {"suppress_tokens": [3, 5, 9, *FAR]},
    "suppressed end": {"suppress_tokens": [tiny.EOS]},
    "suppressed first": {"begin_suppress_tokens": [tiny.EOS, 3, 4, 6, *FAR]},
    "both": {"suppress_tokens": [3, 5], "begin_suppress_tokens": [3, tiny.EOS, 7]},
    "forced first": {"forced_bos_token_id": 0},
    "forced first, suppressed first": {"forced_bos_token_id": 0, "begin_suppress_tokens": [tiny.EOS, 3, 4, 6]},
    "start token": {"decoder_start_token_id": 0},
    "start token of texts": {"decoder_start_token_id": None, "bos_token_id": 7},
    "several end tokens": {"eos_token_id": [tiny.EOS, 5, 8]},
    "another end token": {"eos_token_id": 6},
    "timestamps": {"return_timestamps": True},
    "longest": {"max_length": 6},
    "longest with a forced token": {"max_length": 6, "forced_bos_token_id": 0},
    "most new tokens": {"max_new_tokens": 3},
    "beams alone": {"length_penalty": 2.0, "early_stopping": True},
    "without effect": {"renormalize_logits": True, "remove_invalid_values": True, "temperature": 0.3, "top_k": 2},
}
SEVERAL = {
    "is_multilingual": True, "lang_to_id": {"<|en|>": 6, "<|de|>": 7}, "task_to_id": {"transcribe": 9, "translate": 10},
}  # fmt: skip
PLAIN = 12  # the no-timestamps token of `tiny_whisper`
# Settings of a Whisper, and the language that is asked for.
WHISPER: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, ""),
    "suppressed": ({"suppress_tokens": [1, 3, 12, 13, 14, *FAR]}, ""),
    "suppressed first": ({"begin_suppress_tokens": [tiny.EOS, 3, 4, 6, *FAR]}, ""),
    "forced first": ({"forced_bos_token_id": 3}, ""),
    "start token": ({"decoder_start_token_id": 0}, ""),
    "several end tokens": ({"eos_token_id": [tiny.EOS, 6, 8]}, ""),
    "language": ({**SEVERAL, "language": "de"}, ""),
    "language and task": ({**SEVERAL, "language": "german", "task": "translate"}, ""),
    "task": ({**SEVERAL, "task": "translate"}, "en"),
    "forced language and task": ({**SEVERAL, "forced_decoder_ids": [[1, 7], [2, 10]]}, ""),
    "forced prompt": ({**SEVERAL, "forced_decoder_ids": [[1, 6], [2, 10], [3, PLAIN]]}, ""),
    "forced task": ({**SEVERAL, "forced_decoder_ids": [[1, None], [2, 9]]}, "de"),
    "language before forced": ({**SEVERAL, "forced_decoder_ids": [[1, 7], [2, 10]], "language": "en"}, ""),
    "forced in English": ({"forced_decoder_ids": [[1, PLAIN]]}, ""),
    "longest": ({"max_length": 5}, ""),
    "most new tokens": ({"max_new_tokens": 3}, ""),
    "sampling, which Whisper ignores": ({"do_sample": True, "temperature": 5.0}, ""),
}


def with_settings(model: EncoderDecoder, **settings: Any) -> EncoderDecoder:
    """The same model with other generation settings."""
    known = {key: value for key, value in (model.generation.to_dict() | settings).items() if value is not None}
    made = type(model)(model.config, model.trunk.model, model.extractor, GenerationConfig.from_dict(known))
    made.config = replace(model.config, tokens_per_second=0.0, extra=LIMIT)
    return made


def ours(model: EncoderDecoder, memory: torch.Tensor, language: str = "") -> list[int]:
    """Start tokens and output of our plain decoding."""
    start = model.start_tokens(language)
    prompt = model.prompt(memory, None, start)
    limits = [model.limit(1.0)]
    said = generate(model.trunk, None, prompt, Silent(), GreedyMatch(), tiny.EOS, limits=limits, rules=model.rules)
    return [*start, *said[0][0]]


def theirs(model: EncoderDecoder, memory: torch.Tensor, **given: Any) -> list[int]:
    """Start tokens and output of the model's own `generate`, given at most as many new tokens as ours."""
    own: Any = model.trunk.model
    capped = model.generation.max_length is not None or model.generation.max_new_tokens is not None
    if not capped:
        given["max_new_tokens"] = LIMIT + (len(model.start_tokens()) - 1 if isinstance(model, Moonshine) else 0)
    with torch.no_grad():
        found: list[int] = own.generate(
            encoder_outputs=MoonshineEncoderModelOutput(last_hidden_state=memory), num_beams=1, **given
        )[0].tolist()
    return found


@cache
def moonshine(seed: int) -> tuple[EncoderDecoder, torch.Tensor]:
    """A model, and encoder outputs [1, S, E]."""
    return heard(tiny.tiny_moonshine(seed), 4 + seed)


@cache
def whisper(seed: int) -> tuple[EncoderDecoder, torch.Tensor]:
    """A model, and encoder outputs [1, S, E]."""
    return heard(tiny.tiny_whisper(seed), 50)


def heard(model: EncoderDecoder, size: int) -> tuple[EncoderDecoder, torch.Tensor]:
    memory = tiny.memory_prompts(model, [size], size).memory
    assert memory is not None
    return model, memory


@pytest.mark.parametrize("name", list(MOONSHINE))
def test_a_moonshine_says_what_transformers_says(name: str) -> None:
    said = []
    for seed in SEEDS:
        model, memory = moonshine(seed)
        said.append(ours(with_settings(model, **MOONSHINE[name]), memory))
        assert said[-1] == theirs(with_settings(model, **MOONSHINE[name]), memory), seed
    plain = [ours(with_settings(moonshine(seed)[0]), moonshine(seed)[1]) for seed in SEEDS]
    same = name in ("none", "timestamps", "beams alone", "without effect")
    assert [one == two for one, two in zip(said, plain)] == [same] * len(SEEDS), "the setting counts"


@pytest.mark.parametrize("name", list(WHISPER))
def test_a_whisper_says_what_transformers_says(name: str) -> None:
    settings, language = WHISPER[name]
    said = []
    for seed in SEEDS:
        model, memory = whisper(seed)
        model = with_settings(model, **settings)
        start = len(model.start_tokens(language))
        found = ours(model, memory, language)
        given: dict[str, Any] = {"language": language} if language else {}
        expected = theirs(model, memory, **given)  # without start tokens and the end token
        end = found[-1:] if found[-1] in model.eos and len(found) - start > len(expected) else []
        assert found[start:] == expected + end, seed
        said.append(found)
    assert len({tuple(one) for one in said}) > 1


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({**SEVERAL, "language": "de"}, (1, 7, 9, PLAIN)),
        ({**SEVERAL, "language": "<|EN|>", "task": "translate"}, (1, 6, 10, PLAIN)),
        ({**SEVERAL, "forced_decoder_ids": [[1, 7], [2, 10]]}, (1, 7, 10, PLAIN)),
        ({"forced_decoder_ids": [[1, PLAIN]]}, (1, PLAIN)),
    ],
)
def test_a_whispers_own_language_and_task_are_defaults(settings: dict[str, Any], start: tuple[int, ...]) -> None:
    model: Any = with_settings(whisper(0)[0], **settings)
    assert model.start_tokens() == start
    if len(start) == 4:
        assert model.start_tokens("en", "transcribe") == (1, 6, 9, PLAIN)
        model.config = replace(model.config, language="en", task="transcribe")
        assert model.start_tokens() == (1, 6, 9, PLAIN), "config.yaml comes first"


def test_peers_do_not_suppress_what_only_we_suppress() -> None:
    """Timestamps behind a prompt without them: a row of transformers in `compare` shows them."""
    differ = 0
    for seed in range(3):
        model, memory = whisper(seed)
        model = with_settings(model, suppress_tokens=[1, 5])
        run = run_peer(model.trunk, "greedy", model.start_tokens(), model.rules, LIMIT, memory=memory)
        said = [*model.start_tokens(), *run.tokens]
        differ += not {*run.tokens}.isdisjoint(range(PLAIN, PLAIN + 3)) and said != ours(model, memory)
    assert differ


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.1}, {"no_repeat_ngram_size": 3}, {"encoder_no_repeat_ngram_size": 2},
        {"encoder_repetition_penalty": 1.2}, {"bad_words_ids": [[3]]}, {"sequence_bias": [[[3], -2.0]]},
        {"exponential_decay_length_penalty": [4, 1.5]}, {"guidance_scale": 2.0}, {"min_length": 5},
        {"min_new_tokens": 2}, {"forced_eos_token_id": 2}, {"token_healing": True}, {"stop_strings": "a"},
        {"max_time": 2.0}, {"penalty_alpha": 0.6}, {"watermarking_config": {"bias": 2.0}}, {"prompt_ids": [3]},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_honoured_are_named(settings: dict[str, Any], tmp_path: Path) -> None:
    [name] = settings
    with pytest.raises(ConfigError, match=f"{name}=.* decoding does not honour it; remove it from gen") as caught:
        check_settings(tmp_path, GenerationConfig(**settings))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    hint = f"give {name} when decoding (SamplingConfig, --{name.replace('_', '-')})"
    assert (hint in str(caught.value)) == (name in ("repetition_penalty", "no_repeat_ngram_size"))


def test_values_that_change_nothing_are_no_matter(tmp_path: Path) -> None:
    harmless = GenerationConfig(
        repetition_penalty=1.0, no_repeat_ngram_size=0, encoder_no_repeat_ngram_size=0, min_length=0, bad_words_ids=[],
        encoder_repetition_penalty=1.0, guidance_scale=1.0, token_healing=False, num_beams=1, do_sample=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_settings(tmp_path, harmless, ("suppress_tokens",))
    drawn = GenerationConfig(num_beams=5, do_sample=True)
    with pytest.warns(UserWarning, match=r"ask for num_beams=5 and do_sample=true; texts are greedy"):
        check_settings(tmp_path, drawn)


def set_in(folder: Path, **settings: Any) -> Path:
    """Set values of generation_config.json."""
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize("kind", ["moonshine", "whisper", "causal_lm", "qwen2_audio"])
def test_every_kind_refuses_what_it_cannot_honour(kind: str, tmp_path: Path) -> None:
    write: dict[str, Any] = {"moonshine": tiny.write_seq2seq, "whisper": write_byte_whisper, "causal_lm": write_lm,
                             "qwen2_audio": write_audio_lm}  # fmt: skip
    more: dict[str, dict[str, Any]] = {
        "moonshine": {"forced_bos_token_id": tiny.EOS},
        "whisper": {"return_timestamps": True, "no_speech_threshold": 0.6, "forced_decoder_ids": [[1, 3]],
                    "language": ["en", "de"]},
        "causal_lm": {"suppress_tokens": [3], "begin_suppress_tokens": [3], "forced_bos_token_id": 3},
        "qwen2_audio": {"suppress_tokens": [3], "begin_suppress_tokens": [3], "forced_bos_token_id": 3},
    }  # fmt: skip
    folder = write[kind](tmp_path / "model")
    before = (folder / "generation_config.json").read_text()
    for name, value in {**more[kind], "no_repeat_ngram_size": 3}.items():
        (folder / "generation_config.json").write_text(before)
        set_in(folder, **{name: value})
        with pytest.raises(ConfigError, match=rf"{name}=.*; ") as caught:
            load_without_heads(str(folder))
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_forced_token_with_a_text_is_refused(tmp_path: Path) -> None:
    """Ours would leave its text out."""
    folder = set_in(tiny.write_seq2seq(tmp_path / "model"), forced_bos_token_id=5)
    with pytest.raises(ConfigError, match=r"forced_bos_token_id=5 .*expected a token without text"):
        load_without_heads(str(folder))
    assert load_without_heads(str(set_in(folder, forced_bos_token_id=0))).model.start_tokens() == (1, 0)  # type: ignore


def test_a_text_lm_ends_where_transformers_ends(tmp_path: Path) -> None:
    """At any of the end tokens of its generation settings; drafters use the tokenizer's, if it is one of them."""
    folder = write_lm(tmp_path / "lm")
    plain = load_lm(folder)
    ids = plain.encode("the cat sat")
    run = run_peer(plain.trunk, "greedy", ids, plain.rules, LIMIT)
    lm = load_lm(set_in(folder, eos_token_id=[run.tokens[2], 1]))
    assert lm.eos == (1, run.tokens[2])
    found = generate(
        lm.trunk, None, lm.read(ids).prompt, Silent(), GreedyMatch(), 1, limits=[LIMIT], rules=lm.rules
    )[0][0]  # fmt: skip
    assert found == run_peer(lm.trunk, "greedy", ids, lm.rules, LIMIT).tokens and len(found) <= 3


def test_a_qwen2_audio_is_as_long_as_its_settings_allow(tmp_path: Path) -> None:
    folder = write_audio_lm(tmp_path / "model")
    samples = 0.1 * torch.randn(8000, generator=tiny.generator(0))
    model = load_without_heads(str(folder)).model
    free = model.listen(samples)
    assert free.limit == model.limit(0.5) == 25
    for settings, most in (({"max_new_tokens": 4}, 4), ({"max_length": len(free.ids) + 7}, 7)):
        assert load_without_heads(str(set_in(folder, **{"max_new_tokens": None, **settings}))).model.listen(
            samples
        ).limit == most  # fmt: skip


def test_a_moonshine_with_grouped_key_heads_is_one_line(tmp_path: Path) -> None:
    """transformers' own cannot run it either; and it builds the decoder with the encoder's numbers."""
    folder = tiny.write_seq2seq(tmp_path / "model")
    path = folder / "config.json"
    before = json.loads(path.read_text())
    plain = load_without_heads(str(folder)).model.trunk
    path.write_text(json.dumps(before | {"decoder_num_key_value_heads": 1}))
    assert load_without_heads(str(folder)).model.trunk.shape == plain.shape and plain.shape.kv_heads == 2
    path.write_text(json.dumps(before | {"encoder_num_key_value_heads": 1}))
    with pytest.raises(CheckpointError, match=r"encoder_num_key_value_heads=1, expected the 2 .*grouped") as caught:
        load_without_heads(str(folder))
    assert "\n" not in str(caught.value)
    grouped = MoonshineForConditionalGeneration(MoonshineConfig(**json.loads(path.read_text())))
    with pytest.raises(RuntimeError):
        grouped.generate(torch.zeros(1, 4000), max_new_tokens=2)


def test_settings_come_back_as_saved(tmp_path: Path) -> None:
    """Even those that transformers would not save, once what was missing is filled in."""
    folder = set_in(write_byte_whisper(tmp_path / "model"), is_multilingual=None, temperature=0.5, do_sample=False)
    model: Any = load_without_heads(str(folder)).model
    (tmp_path / "copy").mkdir()
    model.save(tmp_path / "copy", "float32")
    again: Any = load_without_heads(str(tmp_path / "copy")).model
    assert again.rules == model.rules and again.start_tokens("de") == model.start_tokens("de")
    assert again.generation.is_multilingual and again.generation.temperature == 0.5
