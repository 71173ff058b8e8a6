"""A multilingual Whisper says its language and task to the decoder, or says what is missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import WhisperForConditionalGeneration

import speechmtp
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.evaluation.reference_outputs import text_tokens

CHOICES = {
    "is_multilingual": True, "lang_to_id": {"<|en|>": 6, "<|de|>": 7, "<|fr|>": 8},
    "task_to_id": {"transcribe": 9, "translate": 10},
}  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny multilingual Whisper."""
    folder = tiny.write_seq2seq(tmp_path_factory.mktemp("many") / "whisper", "whisper", 4)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | CHOICES))
    return folder


def noise(size: int = 12000, seed: int = 0) -> np.ndarray:
    return torch.randn(size, generator=tiny.generator(seed)).numpy()


@pytest.mark.parametrize(
    ("language", "task", "ids"),
    [
        ("de", "", (7, 9)), ("german", "transcribe", (7, 9)), (" German ", "translate", (7, 10)),
        ("<|fr|>", "", (8, 9)), ("EN", "translate", (6, 10)),
    ],
)  # fmt: skip
def test_the_prompt_says_language_and_task(many: Path, language: str, task: str, ids: tuple[int, int]) -> None:
    recogniser = speechmtp.load(str(many))
    request = recogniser.listen(noise(), language=language, task=task)
    plain = recogniser.bundle.model.generation.no_timestamps_token_id  # type: ignore[union-attr]
    assert request.start_tokens == (tiny.BOS, *ids, plain) and request.prompt.lengths.tolist() == [4]
    wanted = recogniser.bundle.model.trunk.embed(torch.tensor(request.start_tokens))
    assert torch.equal(request.prompt.embeddings[0], wanted)


@pytest.mark.parametrize(("language", "task"), [("de", "translate"), ("fr", "transcribe")])
def test_tokens_are_those_of_transformers(many: Path, language: str, task: str) -> None:
    recogniser = speechmtp.load(str(many), dtype="float64")
    model: Any = WhisperForConditionalGeneration.from_pretrained(many, dtype=torch.float64)
    said = set()
    for seed in range(4):
        audio = noise(9000 + 1000 * seed, seed)
        request = recogniser.listen(audio, language=language, task=task)
        [result] = recogniser.decode([request], parse_strategy("ar"))
        features = recogniser.bundle.model.inputs(torch.from_numpy(audio))  # type: ignore[operator]
        config = model.generation_config
        config.suppress_tokens, config.begin_suppress_tokens = list(request.rules.suppress), [tiny.EOS, 4]
        config.max_new_tokens = request.limit
        wanted = model.generate(features, language=language, task=task, num_beams=1, do_sample=False)[0].tolist()
        start = 4 if tuple(wanted[:4]) == request.start_tokens else 0
        assert [*result.tokens] == wanted[start:]
        said.add(result.tokens)
    assert len(said) > 1


def test_texts_to_judge_on_are_as_the_model_says_them(many: Path) -> None:
    recogniser = speechmtp.load(str(many), dtype="float64")
    model, request = recogniser.bundle.model, recogniser.listen(noise(), language="de")
    assert model.transcript("the cat") != model.encode("the cat")
    found = text_tokens(recogniser, {"a": request}, {"a": "the cat"})
    assert found == {"a": [*model.transcript("the cat"), model.eos[0]]}


def test_language_and_task_reach_every_name_of_the_recogniser(many: Path) -> None:
    recogniser, audio = speechmtp.load(str(many), dtype="float64"), noise()
    chosen = recogniser.listen(audio, language="de", task="translate")
    [wanted] = recogniser.decode([chosen], parse_strategy("ar"))
    found = recogniser.transcribe(audio, 16000, "ar", language="german", task="translate")
    assert (found.tokens, found.language) == (wanted.tokens, "de")
    assert list(recogniser.transcribe_many([audio], 16000, "ar", language="de", task="translate")) == [found]
    options = {"model": str(many), "dtype": "float64", "language": "de", "task": "translate"}
    assert speechmtp.transcribe(audio, 16000, "ar", **options) == found  # type: ignore[arg-type]
    assert list(speechmtp.transcribe_many([audio], 16000, "ar", **options)) == [found]  # type: ignore[call-overload]
    [part] = recogniser.listen_parts(audio, language="de", task="translate")
    assert part.start_tokens == chosen.start_tokens


@pytest.mark.parametrize(
    ("language", "task", "message"),
    [
        ("", "", r"a multilingual Whisper, and no language is given; say language='en'"),
        ("", "translate", r"no language is given"),
        ("klingon", "", r"language='klingon': Whisper knows no such language; give a code"),
        ("germna", "", r"language='germna': Whisper knows no such language; did you mean german\?"),
        ("nl", "", r"language='nl': this Whisper has no token for it; choose another"),
        ("de", "sing", r"task='sing': expected one of transcribe, translate"),
    ],
)
def test_what_is_missing_or_unknown_is_one_line(many: Path, language: str, task: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        speechmtp.load(str(many)).listen(noise(), language=language, task=task)
    assert "\n" not in str(caught.value) and str(many) in str(caught.value)


@pytest.mark.parametrize(
    ("language", "task", "message"),
    [("de", "", "language='de': an English-only Whisper"), ("", "translate", "task='translate': an English-only")],
)
def test_an_english_only_whisper_takes_english_alone(tmp_path: Path, language: str, task: str, message: str) -> None:
    recogniser = speechmtp.load(str(tiny.write_seq2seq(tmp_path / "model", "whisper")))
    with pytest.raises(ConfigError, match=message):
        recogniser.listen(noise(), language=language, task=task)
    assert recogniser.transcribe(noise(), 16000).language == "en"
    for same in ("", "en", "english"):
        chosen = recogniser.listen(noise(), language=same, task="transcribe")
        assert chosen.start_tokens == recogniser.listen(noise()).start_tokens


@pytest.mark.parametrize("model", ["an4", "default"])
def test_other_models_have_nothing_to_choose(model: str) -> None:
    recogniser = speechmtp.load(model)
    assert recogniser.transcribe(noise(), 16000).language is None
    for choice in ({"language": "en"}, {"task": "transcribe"}):
        with pytest.raises(SpeechMTPError, match="to choose; leave it out") as caught:
            recogniser.listen(noise(), **choice)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_a_folder_may_say_its_own_language(many: Path, tmp_path: Path) -> None:
    folder = tmp_path / "german"
    folder.mkdir()
    for path in many.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = "format_version: 1\nmodel: {kind: whisper, language: german, task: translate}\n"
    (folder / "config.yaml").write_text(settings)
    recogniser = speechmtp.load(str(folder))
    assert recogniser.listen(noise()).start_tokens[1:3] == (7, 10)
    assert recogniser.listen(noise(), language="fr", task="transcribe").start_tokens[1:3] == (8, 9)
