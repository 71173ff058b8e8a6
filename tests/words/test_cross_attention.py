"""Shares of cross-attention against transformers' own, and words placed by them."""

import numpy as np
import pytest
import tiny
import torch

from speechmtp.errors import ConfigError
from speechmtp.models.alignment import Lag
from speechmtp.words.cross_attention import attended_times

IDS = (1, 5, 3, 3, 7, 4)


@pytest.mark.parametrize("kind", ["moonshine", "whisper"])
def test_shares_are_those_of_the_model(kind: str) -> None:
    model = tiny.tiny_moonshine() if kind == "moonshine" else tiny.tiny_whisper()
    prompt = tiny.memory_prompts(model, [9])
    assert prompt.memory is not None
    trunk = model.trunk
    heads = [(0, 1), (1, 0)]
    found = trunk.attention_shares(IDS, prompt.memory, heads)
    trunk.attend("training")  # the eager form, which can tell its weights
    decoder = trunk.model.get_decoder()
    with torch.no_grad():
        out = decoder(
            input_ids=torch.tensor([IDS]), encoder_hidden_states=prompt.memory, output_attentions=True, use_cache=False
        )
    wanted = torch.stack([out.cross_attentions[layer][0, head] for layer, head in heads]).mean(0)
    assert found.shape == (len(IDS), 9)
    torch.testing.assert_close(found, wanted.float(), atol=1e-5, rtol=1e-4)


def test_a_head_that_does_not_exist() -> None:
    model = tiny.tiny_moonshine()
    memory = tiny.memory_prompts(model, [4]).memory
    assert memory is not None
    with pytest.raises(ConfigError, match=r"no cross-attention head 0\.7"):
        model.trunk.attention_shares(IDS, memory, [(0, 7)])


def test_a_first_token_starts_no_earlier_than_tokens_of_its_length() -> None:
    lag = Lag(0.1, 0.05)
    late = np.array([[30, 34], [35, 39]])
    assert attended_times(late, [(0, 0), (1, 1)], 0.02, lag, "ab")[0] == pytest.approx((0.7, 0.75))
    early = np.array([[0, 2], [35, 39]])
    (start, end), second = attended_times(early, [(0, 0), (1, 1)], 0.02, lag, "ab")
    assert 0.6 < start < end == pytest.approx(0.8) and second == pytest.approx((0.8, 0.85))
    [(start, end)] = attended_times(early, [(0, 1)], 0.02, lag, "ab")
    assert start > 0.6 and end == pytest.approx(0.85)
