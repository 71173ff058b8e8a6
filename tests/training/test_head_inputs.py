"""Inputs of heads: one function a kind, data directories and caches that do not fit, what is encoded and kept."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import test_finetune as scene
import torch

from speechmtp.bundle import Bundle
from speechmtp.data.kaldi import DataDir
from speechmtp.errors import ConfigError, DataError
from speechmtp.heads.labels import IGNORED, shifted_labels
from speechmtp.training.tasks import encoded_utterances as encoded
from speechmtp.training.tasks.encoded_utterances import (
    SPEEDS,
    EncodedUtterance,
    EncodedUtterances,
    encode_utterances,
    encoded_utterances,
    load_samples,
    own_outputs,
)
from speechmtp.training.tasks.head_inputs.contract import HeadInputs
from speechmtp.training.tasks.head_inputs.table import HEAD_INPUTS, make_head_input
from speechmtp.training.tasks.head_inputs.texts import text_input
from speechmtp.training.tasks.head_inputs.utterances import utterance_data, utterance_dev
from speechmtp.training.tasks.heads import HeadsTrainConfig

data = scene.data  # the fixture of four utterances, two of one length


def ignore(done: int, total: int) -> None:
    """Take no note."""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return scene.load(tmp_path)


def asked(**changes: Any) -> HeadInputs:
    """A request for the data of heads, without a model."""
    settings = {"bundle": SimpleNamespace(), "config": HeadsTrainConfig(), "train": ["a"], "dev": ["b"]} | changes
    return HeadInputs(**settings)  # type: ignore[arg-type]


def test_every_kind_is_a_file_of_its_own() -> None:
    files = {make.__module__ for make in HEAD_INPUTS.values()}
    assert len(files) == len(HEAD_INPUTS)
    assert {file.rpartition(".")[0] for file in files} == {"speechmtp.training.tasks.head_inputs"}


def test_the_table_is_asked_by_what_the_model_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    import speechmtp.training.tasks.head_inputs.table as table

    calls = []
    monkeypatch.setattr(table, "HEAD_INPUTS", {"texts": lambda given, note: calls.append(given)})
    given = asked(bundle=SimpleNamespace(model=SimpleNamespace(input_kind="texts")))
    make_head_input(given, ignore)
    assert calls == [given]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": ["a", "b"]}, "heads: train= has 2 data directories, expected one; combine them"),
        ({"dev": []}, "heads: dev= has 0 data directories, expected one; combine them"),
    ],
)
def test_other_numbers_of_directories_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        asked(**changes).directories(True)
    assert str(error.value) == message


def test_a_text_model_takes_no_cache() -> None:
    lm = SimpleNamespace(name="a text LM")
    with pytest.raises(ConfigError, match="heads: cache=p is for encoder outputs, but a text LM reads text"):
        text_input(asked(bundle=SimpleNamespace(text_model=lm), cache=Path("p")), ignore)


def test_utterances_are_encoded_once_where_a_file_keeps_them(
    bundle: Bundle, data: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, notes = tmp_path / "cache", []
    first = encoded_utterances(bundle, [data], "text", file, False, lambda *note: notes.append(note), 2, 5)
    assert notes[-1] == (8, 8) and [i.id for i in first] == [*"abcd", *(f"{name}-pass1" for name in "abcd")]
    monkeypatch.setattr(encoded, "encode_utterances", None)  # it is not called again
    again = encoded_utterances(bundle, [data], "text", file, False, ignore, 2, 5)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.memory, other.memory)
        assert (one.id, one.text, one.ended, one.seconds) == (other.id, other.text, other.ended, other.seconds)
    for targets, passes, seed in (("own", 2, 5), ("text", 1, 5), ("text", 2, 6)):
        with pytest.raises(DataError, match="another model, data or options"):
            encoded_utterances(bundle, [data], targets, file, False, ignore, passes, seed)


def test_what_was_encoded_by_other_weights_is_refused(bundle: Bundle, data: DataDir, tmp_path: Path) -> None:
    file = tmp_path / "cache"
    encoded_utterances(bundle, [data], "text", file, False, ignore)
    with torch.no_grad():
        next(iter(bundle.encoder_decoder_model.trunk.model.get_encoder().parameters())).add_(1e-3)
    with pytest.raises(DataError, match="another model, data or options"):
        encoded_utterances(bundle, [data], "text", file, False, ignore)


def test_each_utterance_is_encoded_alone_in_half_precision(bundle: Bundle, data: DataDir) -> None:
    model = bundle.encoder_decoder_model
    texts = [model.transcript(scene.TEXTS[u.id].lower()) for u in data.utterances]
    items = encode_utterances(model, data.utterances, texts)
    for item, utterance, text in zip(items, data.utterances, texts, strict=True):
        samples = torch.from_numpy(utterance.load())
        assert torch.equal(item.memory, model.memory(samples)[0].half()) and item.memory.dtype == torch.half
        assert (item.text, item.ended, item.seconds) == (text, True, len(samples) / 16000)


def test_own_texts_do_not_depend_on_what_is_decoded_together(bundle: Bundle, data: DataDir) -> None:
    model = bundle.encoder_decoder_model
    together, alone = (encode_utterances(model, data.utterances, rows=rows) for rows in (4, 1))
    assert [(i.text, i.ended) for i in together] == [(i.text, i.ended) for i in alone]
    encoder_outputs = [model.memory(torch.from_numpy(u.load())) for u in data.utterances]
    limits = [3, 1, 2, 4]
    found = own_outputs(model, encoder_outputs, limits, rows=2)
    assert found == [own_outputs(model, [memory], [limit])[0] for memory, limit in zip(encoder_outputs, limits)]
    assert all(1 <= len(row) <= limit for row, limit in zip(found, limits))


def test_later_passes_play_at_speeds_of_their_own(bundle: Bundle, data: DataDir) -> None:
    model, utterance = bundle.encoder_decoder_model, data.utterances[1]
    plain = load_samples(model, utterance, False, 0, 0)
    assert torch.equal(plain, torch.from_numpy(utterance.load()))
    sizes = [
        len(load_samples(model, utterance, False, number, seed)) for number, seed in ((1, 0), (1, 0), (2, 0), (1, 2))
    ]
    assert sizes[0] == sizes[1] and len(set(sizes)) == 3
    assert all(1 / SPEEDS[1] - 0.01 <= size / len(plain) <= 1 / SPEEDS[0] + 0.01 for size in sizes)


def test_audio_that_the_model_cannot_take_is_named(
    bundle: Bundle, data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle.model, "longest", 1.1)
    with pytest.raises(DataError, match=r"wav.scp:2: b: 1.25 s, expected 0.06 to 1 s; leave it out"):
        load_samples(bundle.encoder_decoder_model, data.utterances[1], False, 0, 0)


def test_batches_hold_what_ended_and_has_a_text(bundle: Bundle) -> None:
    def item(name: str, text: list[int], ended: bool) -> EncodedUtterance:
        return EncodedUtterance(name, torch.zeros(2, 3), text, ended, 1.0)

    items = [item("a", [5], True), item("b", [5], False), item("c", [], True)]
    batches = EncodedUtterances(bundle.encoder_decoder_model, items, 8, 0)
    assert [i.id for i in batches.batch(0)] == ["a"] and batches.count(batches.batch(3)) == 2
    assert batches.tokens() == [[5, bundle.encoder_decoder_model.eos[0]]]
    with pytest.raises(DataError, match="no utterance to train on"):
        EncodedUtterances(bundle.encoder_decoder_model, items[1:], 8, 0)


def test_training_and_development_data_of_an_encoder_decoder(
    bundle: Bundle, data: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are read from their files; the development set's outputs are those that were kept."""
    from dataclasses import replace

    import speechmtp.training.tasks.head_inputs.utterances as kind

    whole = encoded.encoded_utterances

    def ending(*given: Any) -> list[EncodedUtterance]:  # a random model seldom ends by itself
        return [replace(item, text=item.text[:4], ended=True) for item in whole(*given)]

    monkeypatch.setattr(kind, "encoded_utterances", ending)
    config = HeadsTrainConfig(rows=2, passes=1)
    train = utterance_data(bundle, [data], config, tmp_path / "cache", False, ignore)
    batch = train.batch(0)
    rows = train.sequences(batch)
    assert len(batch) == 2 and rows.memory is not None and len(rows.memory) == 2
    labels = shifted_labels(rows.ids, rows.segments, 0, rows.wanted, rows.starts)
    assert int((labels != IGNORED).sum()) == train.count(batch)
    dev = utterance_dev(bundle, [data], tmp_path / "dev_cache", False, ignore)
    assert (tmp_path / "cache").exists() and (tmp_path / "dev_cache").exists()
    assert len(dev.prompts()) == 4 and dev.word_errors is not None
    assert dev.limits == [bundle.encoder_decoder_model.limit(len(u.load()) / 16000) for u in data.utterances]
    nothing = lambda *given: [replace(item, ended=False) for item in whole(*given)]  # noqa: E731
    monkeypatch.setattr(kind, "encoded_utterances", nothing)
    with pytest.raises(DataError, match="no output of the development set ended by itself"):
        utterance_dev(bundle, [data], None, False, ignore)
