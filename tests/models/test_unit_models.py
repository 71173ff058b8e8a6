"""Durations and hints: how far they look ahead, and where in the units a token lies."""

import pytest
import torch

from speechmtp.models.durations import STEPS, Durations
from speechmtp.models.unit_encoder import UnitEncoder, UnitEncoderConfig, places_in_words
from speechmtp.models.unit_hints import UnitHints

CONFIG = UnitEncoderConfig(width=16, layers=3, heads=2, ff_width=32, dropout=0.0)
WORDS = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 3, 3]])
IDS = torch.tensor([[0, 5, 9, 7, 4, 3, 11, 2, 8, 0]])
FRAMES = torch.tensor([[9, 4, 3, 5, 6, 2, 8, 4, 3, 7]])
FRAMES_PER_TOKEN = 3.2


def changed(ids: torch.Tensor, word: int) -> torch.Tensor:
    """The units with another symbol in every place of a word and of the words after it."""
    return torch.where(word <= WORDS, (ids + 1) % 12, ids)


@pytest.mark.parametrize("word", [1, 2, 3])
def test_a_unit_sees_one_word_ahead_and_no_more(word: int) -> None:
    torch.manual_seed(0)
    encoder = UnitEncoder(CONFIG, 12).double().eval()
    before, after = encoder(IDS, WORDS), encoder(changed(IDS, word), WORDS)
    moved = (before - after).abs().amax(-1)[0] > 1e-9
    assert not moved[WORDS[0] < word - 1].any()
    assert moved[WORDS[0] == word - 1].all()  # the word before one that changed sees it


def test_padding_changes_no_unit() -> None:
    torch.manual_seed(0)
    encoder = UnitEncoder(CONFIG, 12).double().eval()
    padded = encoder(torch.nn.functional.pad(IDS, (0, 4)), torch.nn.functional.pad(WORDS, (0, 4), value=-1))
    torch.testing.assert_close(padded[:, : IDS.shape[1]], encoder(IDS, WORDS))


def test_places_in_words_begin_anew_with_every_word() -> None:
    assert places_in_words(WORDS)[0].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1]


def test_durations_are_within_their_steps_and_learn() -> None:
    torch.manual_seed(0)
    model = Durations(CONFIG, 12)
    assert ((model(IDS, WORDS) >= 2) & (model(IDS, WORDS) <= 2 * STEPS)).all()
    frames, speed = 2 * torch.arange(1, 11)[None], torch.ones(1)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        model.loss(IDS, WORDS, speed, frames).backward()
        optimiser.step()
    assert (model(IDS, WORDS) - frames).abs().max() < 0.5


@pytest.mark.parametrize("word", [2, 3])
def test_hints_of_a_token_depend_on_no_word_after_the_next(word: int) -> None:
    torch.manual_seed(0)
    model = UnitHints(CONFIG, 12, 8).double().eval()
    tokens = int(-(-int(FRAMES.sum()) // FRAMES_PER_TOKEN))
    before, after = (model(ids, WORDS, FRAMES, tokens, FRAMES_PER_TOKEN) for ids in (IDS, changed(IDS, word)))
    moved = (before - after).abs().amax(-1)[0] > 1e-9
    end = int(FRAMES[word - 1 > WORDS].sum())  # of the words that may not see the change
    inside = torch.arange(1, tokens + 1) * FRAMES_PER_TOKEN <= end
    assert inside.any() and not moved[inside].any()
    assert moved[~inside].all()


def test_the_hint_of_a_token_is_that_of_the_unit_at_its_middle() -> None:
    torch.manual_seed(0)
    model = UnitHints(CONFIG, 12, 8).double().eval()
    whole = model(IDS, WORDS, FRAMES, 15, FRAMES_PER_TOKEN)
    held = FRAMES.clone()
    held[0, -1] += 10  # a longer last unit moves no token before it
    longer = model(IDS, WORDS, held, 15, FRAMES_PER_TOKEN)
    last = int(FRAMES[0, :-1].sum() / FRAMES_PER_TOKEN)
    torch.testing.assert_close(longer[:, :last], whole[:, :last])
    assert not torch.allclose(longer[:, last + 1 :], whole[:, last + 1 :])
