"""Task `lm`: packing loses no token and keeps documents apart, the loss is the plain one, training resumes exactly."""

import gzip
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import torch
from small_lm import LINES
from torch import Tensor

from speechmtp.errors import ConfigError, DataError
from speechmtp.training.loop import LoopConfig, TrainingStopped, run_phase
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.lm import (
    LmBatch,
    LmConfig,
    LmPhase,
    PackedDocuments,
    encode_documents,
    read_documents,
    train_bpe,
)

SIZE = 7
CONFIG = LmConfig(
    steps=6, rows=3, size=SIZE, optim=OptimConfig(lr=1e-2, warmup=1, schedule="cosine", ema=0.9),
    loop=LoopConfig(evaluate_every=2, save_every=2, average=2),
)  # fmt: skip


def documents(seed: int = 0) -> list[list[int]]:
    """Random documents, some of them longer than a row or two."""
    rng = tiny.generator(seed)
    return [[tiny.BOS, *text, tiny.EOS] for text in tiny.sentences(rng, 12, 17)]


def packed(seed: int = 0, rows: int = 4) -> PackedDocuments:
    """`documents` in rows of SIZE."""
    return PackedDocuments(documents(), rows, SIZE, seed)


def rows_of(data: PackedDocuments, epoch: int) -> list[LmBatch]:
    """The rows of an epoch in order, a batch of one each; `data` has one row a batch."""
    return [data.batch(epoch * data.rows + i) for i in range(data.rows)]


def states(trunk: torch.nn.Module, batch: LmBatch) -> Tensor:
    """Trunk states of a batch."""
    with torch.no_grad():
        return trunk(trunk.embed(batch.ids), batch.positions, batch.segments).hidden  # type: ignore[operator]


@pytest.mark.parametrize("epoch", [0, 3])
def test_every_token_is_asked_for_once_an_epoch(epoch: int) -> None:
    data, texts = packed(rows=1), documents()
    asked: dict[int, list[tuple[int, int]]] = {}
    for batch in rows_of(data, epoch):
        for token, label, document in zip(batch.ids[0], batch.labels[0], batch.segments[0]):
            assert (label < 0) == (document < 0)
            if document >= 0:
                asked.setdefault(int(document), []).append((int(token), int(label)))
    assert asked == {i: list(pairwise(text)) for i, text in enumerate(texts)}
    assert data.tokens == sum(len(text) - 1 for text in texts)


def test_rows_are_full_and_positions_start_with_each_document() -> None:
    rows = rows_of(packed(rows=1), 0)
    assert all(bool((row.segments >= 0).all()) for row in rows[:-1])
    for row in rows:
        for place in range(SIZE):
            same = place > 0 and row.segments[0, place] == row.segments[0, place - 1]
            assert row.positions[0, place] == (row.positions[0, place - 1] + 1 if same else 0)


def test_batches_are_functions_of_their_number() -> None:
    data = packed()
    last = 2 * data.rows // 4
    assert data.rows % 4  # so that a batch holds rows of two epochs
    seen = [data.batch(n) for n in range(last + 1)]
    for number in (last, 0, 1):
        again = packed().batch(number)
        assert all(torch.equal(getattr(again, n), getattr(seen[number], n)) for n in vars(again))
    alone = [row.ids[0] for epoch in (0, 1) for row in rows_of(packed(rows=1), epoch)]
    assert torch.equal(torch.cat([batch.ids for batch in seen])[: len(alone)], torch.stack(alone)[: 4 * last + 4])
    assert not torch.equal(alone[0], alone[data.rows])  # another order each epoch
    assert not torch.equal(packed(1).batch(0).ids, seen[0].ids)
    whole = torch.cat([batch.ids for batch in data.epoch()])
    assert torch.equal(whole, torch.stack(alone[: data.rows]))


@pytest.mark.parametrize("family", tiny.TRUNKS)
def test_documents_of_a_row_do_not_see_each_other(family: str) -> None:
    trunk, checked = tiny.trunk(0, family), 0
    for row in rows_of(packed(rows=1), 0):
        found = states(trunk, row)
        for document in set(row.segments[row.segments >= 0].tolist()):
            inside = row.segments[0] == document
            size = int(inside.sum())
            alone = LmBatch(row.ids[:, inside], row.labels[:, inside], torch.arange(size)[None],
                            torch.zeros(1, size, dtype=torch.long))  # fmt: skip
            torch.testing.assert_close(found[:, inside], states(trunk, alone), rtol=1e-10, atol=1e-10)
            checked += 1
    assert checked > len(documents())  # some go on in another row


def phase(seed: int = 0) -> LmPhase:
    """A tiny trunk on `documents`, with others as the development set."""
    dev = PackedDocuments(documents(1), 3, SIZE, 0)
    return LmPhase(CONFIG, tiny.trunk(seed, gain=1.0), packed(), dev, torch.float32)


def test_the_loss_is_the_cross_entropy_of_transformers() -> None:
    one = phase()
    text = documents()[3]
    batch = PackedDocuments([text], 1, len(text) - 1, 0).batch(0)
    model = one.module.model
    found = model(input_ids=torch.tensor([text]), labels=torch.tensor([text])).loss
    assert one.weight(batch) == len(text) - 1
    assert float(one.loss(batch, 0)[0].detach()) == pytest.approx(float(found.detach()) * (len(text) - 1), rel=1e-5)
    figures = one.evaluate()
    assert figures["score"] == figures["nats"] and 2 < figures["perplexity"] < 200


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = phase()
    first = run_phase(whole, tmp_path / "whole", CONFIG.loop, 0, False)
    stopped = phase()
    plain = LmPhase.loss

    def stopping(self: LmPhase, batch: LmBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(LmPhase, "loss", stopping)
        with pytest.raises(TrainingStopped):
            run_phase(stopped, tmp_path / "stopped", CONFIG.loop, 0, False)
    again = phase(5)  # other weights, to be replaced by the stored ones
    second = run_phase(again, tmp_path / "stopped", CONFIG.loop, 0, True)
    assert first == second
    one, other = (p.module.state_dict() for p in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(value, one[name]) for name, value in phase().module.state_dict().items())


def test_lines_are_joined_into_documents(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one\n\n two \nthree\nfour\nfive\n")
    assert read_documents(path, 2) == ["one two", "three four", "five"]
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_documents(tmp_path / "text.txt.gz", 9) == ["one two three four five"]
    for name, raw, message in (
        ("absent.txt", None, "text file is expected"), ("torn.gz", b"\x1f\x8bno", "text file is expected"),
        ("latin.txt", b"caf\xe9\n", "byte 3 is not UTF-8"), ("empty.txt", b"\n \n", "a sentence a line"),
    ):  # fmt: skip
        if raw is not None:
            (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match=message):
            read_documents(tmp_path / name, 1)


def test_the_tokenizer_spells_any_text() -> None:
    tokenizer = train_bpe(LINES, 300)
    assert len(tokenizer) == 300
    strange = "a cat; \u00fcber 猫!"
    [ids] = encode_documents(tokenizer, [strange])
    assert ids[0] == tokenizer.bos_token_id == 1 and ids[-1] == tokenizer.eos_token_id == 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == strange
    assert tokenizer(strange)["input_ids"] == ids[:-1]
    tokenizer.bos_token = None
    assert encode_documents(tokenizer, [strange]) == [ids[1:]]


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"size": 1}, {"vocab_size": 100}, {"lines": 0}, {"steps": 0}])
def test_wrong_numbers_are_refused(wrong: dict[str, int]) -> None:
    [name] = wrong
    with pytest.raises(ConfigError, match=f"lm: {name}="):
        LmConfig(**wrong)
    with pytest.raises(DataError, match="two tokens"):
        PackedDocuments([[2], []], 1, 4, 0)
