"""Phase `text`: its texts, and batches that are a pure function of their number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import VOCAB, heads, speech_lm
from torch import Tensor

from speechmtp.errors import ConfigError, DataError
from speechmtp.models.adapter import StackConfig
from speechmtp.text.normalize import get_normalizer
from speechmtp.text.tokenizer import Tokenizer, train_tokenizer
from speechmtp.training.losses import MultiTokenConfig
from speechmtp.training.multi_token import pad_text
from speechmtp.training.simulate import SegmentBank
from speechmtp.training.tasks.text import (
    POOL,
    TextBatch,
    TextPhase,
    TextPhaseConfig,
    TextSource,
    TextStream,
    build_bank,
    read_texts,
    text_loss,
)

LINES = ["AB", "ABA", "BAAB", "B", "ABBABA", "BABABABB", "AABBA", "BB"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(LINES, 7, "bpe")


def bank_of(size: int) -> SegmentBank:
    """Every token recognised right five times, and some taken for their neighbour."""
    bank, random = SegmentBank(size), np.random.default_rng(0)
    for token in range(size):
        labels = [token] * 5 + [(token + 1) % size]
        posterior = 0.1 + 0.05 * random.random((6, size + 1))
        posterior[np.arange(6), labels] = 0.8
        bank.add([token] * 6, labels, posterior, random.random((6, 4)))
    bank.freeze(0.1)
    return bank


def test_texts_are_read_with_and_without_ids(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "plain").write_text("AB\n\nABA\nAXB\n")
    (tmp_path / "kaldi").write_text("u1 AB\nu2\tABA\nAB\nu4   BA B\n")
    plain = read_texts(TextSource(str(tmp_path / "plain")), tokenizer)
    assert [tokenizer.decode(t) for t in plain] == ["AB", "ABA"]  # X cannot be spelled
    kaldi = read_texts(TextSource(str(tmp_path / "kaldi"), kaldi=True), tokenizer)
    assert [tokenizer.decode(t) for t in kaldi] == ["AB", "ABA", "BA B"]


def test_texts_are_normalised_like_the_transcripts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "x").write_text("u1 ab, aba.\n")
    texts = read_texts(TextSource(str(tmp_path / "x"), kaldi=True), tokenizer, get_normalizer("kaldi-basic"))
    assert [tokenizer.decode(t) for t in texts] == ["AB ABA"]


def test_files_that_cannot_be_used_are_errors(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "other").write_text("xyz\n")
    (tmp_path / "bytes").write_bytes(b"AB\xff\n")
    for name, words in (("none", "text file"), ("other", "no line"), ("bytes", "UTF-8")):
        with pytest.raises(DataError, match=f"{name}.*{words}"):
            read_texts(TextSource(str(tmp_path / name)), tokenizer)


@pytest.fixture
def stream(tmp_path: Path, tokenizer: Tokenizer) -> TextStream:
    (tmp_path / "a").write_text("\n".join(LINES[:4]))
    (tmp_path / "b").write_text("\n".join(LINES[4:]))
    sources = TextSource(str(tmp_path / "a"), 3.0), TextSource(str(tmp_path / "b"), 1.0)
    return TextStream(TextPhaseConfig(rows=6, texts=sources), tokenizer, bank_of(len(tokenizer)), 0)


def rows_of(batch: TextBatch) -> list[list[int]]:
    return [row[1 : n - 1] for row, n in zip(batch.ids.tolist(), batch.lengths.tolist())]


def test_a_batch_is_a_pure_function_of_its_number(stream: TextStream) -> None:
    first = [stream.batch(n) for n in range(2 * POOL)]
    for number in (11, 0, 7):
        again = stream.batch(number)
        assert torch.equal(again.ids, first[number].ids)
        assert torch.equal(again.segments.posterior, first[number].segments.posterior)
    texts = [rows_of(batch) for batch in first]
    assert len({str(text) for text in texts}) == len(texts)


def test_sources_are_drawn_by_weight_and_batches_hold_one_length(stream: TextStream, tokenizer: Tokenizer) -> None:
    drawn = [rows_of(stream.batch(n)) for n in range(20 * POOL)]
    lines = [tokenizer.decode(text) for batch in drawn for text in batch]
    share = np.mean([line in LINES[:4] for line in lines])
    assert share == pytest.approx(0.75, abs=0.06)
    assert set(lines) == set(LINES)
    spread = np.mean([max(map(len, batch)) - min(map(len, batch)) for batch in drawn])
    mixed = max(map(len, [t for b in drawn for t in b])) - 1
    assert spread < mixed / 3


def test_texts_open_and_close(tokenizer: Tokenizer) -> None:
    ids, lengths = pad_text([[4, 5], [3]], 1, 2)
    assert ids.tolist() == [[1, 4, 5, 2], [1, 3, 2, 2]] and lengths.tolist() == [4, 3]


def test_a_text_phase_needs_merged_segments() -> None:
    with pytest.raises(ConfigError, match="ctc_merge"):
        build_bank(speech_lm(adapter=StackConfig()), None, 0.1, TextPhaseConfig(), 0)  # type: ignore[arg-type]


def batch_of(texts: list[list[int]]) -> TextBatch:
    """Texts with their own tokens as segments."""
    from speechmtp.training.simulate import NoiseConfig, simulate

    ids, lengths = pad_text(texts, 1, 2)
    clean = NoiseConfig(scale=(0.0, 0.0))
    segments = simulate(texts, bank_of(VOCAB), clean, np.random.default_rng(0))
    size = segments.labels.shape[1]
    # A segment's vector depends on its token alone, so that batches can be cut in different ways.
    posterior = torch.nn.functional.one_hot(segments.labels.clamp_min(0), VOCAB + 1).double()
    known = torch.arange(size) < segments.lengths[:, None]
    return TextBatch(
        replace(segments, posterior=posterior * known[..., None], features=0.0 * segments.features), ids, lengths
    )


def test_head_weights_rise_over_the_warm_up_of_the_loss() -> None:
    model, head_set = speech_lm(), heads("latent", 3)
    batch = batch_of([[4, 5, 6, 7], [3, 4, 8]])
    phase = object.__new__(TextPhase)
    phase._model, phase._heads, phase._device, phase._precision = model, head_set, torch.device("cpu"), torch.float32
    phase._config = TextPhaseConfig(loss=MultiTokenConfig(warmup=4))
    losses = [float(phase.loss(batch, step)[0].detach()) for step in (0, 1, 3, 9)]
    base = float(text_loss(model, heads("latent", 0), batch, MultiTokenConfig())[0].detach())
    assert losses[0] - base == pytest.approx((losses[2] - base) / 4) and losses[1] - base == pytest.approx(
        (losses[2] - base) / 2
    )
    assert losses[3] == losses[2]


@pytest.mark.parametrize("depth", [0, 3])
def test_accumulated_gradients_are_those_of_one_batch(depth: int) -> None:
    """Depths have means of their own within a micro-batch: with heads the ragged rows are dealt out evenly."""
    model, head_set = speech_lm(), heads("latent", depth)
    model.trunk.train()
    even = [[4, 5, 6, 7, 8, 9], [3, 4]] * 4
    texts = even if depth else [[4, 5, 6], [3], [5, 6, 7, 8, 9, 4], [6, 5], [7] * 9, [8, 3], [9], [4]]
    config = MultiTokenConfig()
    weight = sum(len(t) + 1 for t in texts)

    def gradients(groups: list[list[list[int]]]) -> dict[str, Tensor]:
        for group in groups:
            loss, _ = text_loss(model, head_set, batch_of(group), config)  # type: ignore[arg-type]
            (loss / weight).backward()
        modules = {"adapter": model.adapter, "trunk": model.trunk, "heads": head_set}
        found = {f"{m}.{k}": p.grad for m, module in modules.items() for k, p in module.named_parameters()}
        for module in modules.values():
            module.zero_grad(set_to_none=True)
        return {k: g for k, g in found.items() if g is not None and g.numel()}

    whole = gradients([texts])
    parts = gradients([texts[i : i + 2] for i in range(0, 8, 2)])
    assert whole.keys() == parts.keys() and len(whole) > 15
    for name in whole:
        assert torch.allclose(whole[name], parts[name], atol=1e-6), name
        assert float(whole[name].abs().max()) > 0 or name.endswith("features.weight"), name
