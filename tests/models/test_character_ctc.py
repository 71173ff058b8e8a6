"""The CTC head that spells: padding, strides, greedy texts."""

from dataclasses import replace

import pytest
import torch

import speechmtp
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.models.character_ctc import CharacterCtcConfig, CharacterCtcHead
from tests import tiny

CONFIG = CharacterCtcConfig(" abcT.", memory_width=12, width=8, layers=2, heads=2, ff_width=16, kernel=5, dropout=0.0)


def head(config: CharacterCtcConfig = CONFIG, seed: int = 0) -> CharacterCtcHead:
    """Random weights, float64."""
    built = CharacterCtcHead(config).double().eval()
    tiny.randomise(built, seed, 2.0)
    return built


def encoder_outputs(lengths: list[int], seed: int = 0) -> list[torch.Tensor]:
    """One [S, E] a row."""
    rng = tiny.generator(seed)
    return [torch.randn(size, 12, generator=rng, dtype=torch.float64) for size in lengths]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_padded_row_is_spelled_as_it_is_alone(stride: int) -> None:
    model, rows = head(replace(CONFIG, stride=stride)), encoder_outputs([7, 10, 1])
    padded = torch.full((3, 11, 12), 50.0, dtype=torch.float64)
    for padding, row in zip(padded, rows):
        padding[: len(row)] = row
    together = model(padded, torch.tensor([len(row) for row in rows]))
    assert together.shape == (3, -(-11 // stride) * stride, 7)
    for found, row in zip(together, rows):
        alone = model(row[None], torch.tensor([len(row)]))[0, : len(row)]
        torch.testing.assert_close(found[: len(row)], alone, rtol=0, atol=1e-10)


def test_a_text_is_the_best_characters_without_runs_and_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = head()
    path = [4, 4, 6, 1, 1, 6, 1, 0, 2, 5, 6]  # T a a space b .
    logits = torch.nn.functional.one_hot(torch.tensor([*path, 3]), 7).double()[None] * 4
    monkeypatch.setattr(model, "forward", lambda memory, lengths: logits)
    found = model.spell(encoder_outputs([11])[0][None])
    assert found.text == "Taa b."  # the last step lies past the memory
    assert found.confidence == pytest.approx([float(logits[0, 0].softmax(-1).max())] * 6)


def test_what_is_spelled_depends_on_the_memory_alone() -> None:
    model = head()
    found = [model.spell(memory[None]) for memory in encoder_outputs([20, 20])]
    assert found[0] != found[1] and found[0] == model.spell(encoder_outputs([20])[0][None])


def test_wrong_sizes_are_one_line() -> None:
    with pytest.raises(ShapeError, match=r"ctc: memory \[1, 4, 5\], expected \[B, S, 12\]"):
        head()(torch.zeros(1, 4, 5), torch.tensor([4]))
    with pytest.raises(ConfigError, match="ctc: stride=0, expected 1 to 1024"):
        replace(CONFIG, stride=0)
    with pytest.raises(ConfigError, match="characters has 'a' twice"):
        replace(CONFIG, characters="aba")


def test_only_a_strategy_that_reads_the_spelling_runs_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither hearing nor verifying does."""
    runs: list[int] = []
    spell = CharacterCtcHead.spell
    monkeypatch.setattr(CharacterCtcHead, "spell", lambda self, memory: runs.append(1) or spell(self, memory))
    recogniser = speechmtp.load("default")
    audio = torch.randn(16000, generator=tiny.generator(0)) / 9
    heard = recogniser.listen(audio.numpy())
    for label, reads in (("ar", 0), ("verify:depth=3", 0), ("ctc-heads", 1)):
        recogniser.decode([heard], parse_strategy(label))
        assert len(runs) == reads, label
