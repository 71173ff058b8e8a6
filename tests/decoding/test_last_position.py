"""Learned positions end: texts go on as far as the model can read, with every strategy alike."""

import pytest
import tiny
import torch
from transformers import OPTConfig, OPTForCausalLM

from speechmtp.decoding.runner import Runner
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, Reference, Request, TokenRules

POSITIONS = 11
STRATEGIES = (
    "ar", "verify:depth=4", "lookup:depth=6", "suffix:depth=6", "jacobi:window=4,ngram=3", "oracle:depth=8",
    "tree:paths=0.1.00.000.0000", "draft-model:depth=5",
)  # fmt: skip


def opt(seed: int = 0) -> Trunk:
    """An OPT of 11 positions."""
    config = OPTConfig(
        vocab_size=13, hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=POSITIONS, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = OPTForCausalLM(config)
    tiny.randomise(model, seed, 3.0)
    return Trunk(model).eval()


def prompt_of(trunk: Trunk, ids: list[int]) -> Prompt:
    """The prompt of these ids."""
    size = torch.tensor([len(ids)])
    return Prompt(trunk.embed(torch.tensor([ids])).detach(), torch.arange(len(ids))[None], size, size)


@pytest.mark.parametrize("ids", [[3, 4, 3, 4], list(range(3, 12)), [5] * POSITIONS], ids=len)
def test_every_strategy_goes_on_to_the_last_position(ids: list[int]) -> None:
    trunk = opt()
    room = POSITIONS - len(ids) + 1
    wanted = trunk.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long(), max_new_tokens=room, do_sample=False,
        eos_token_id=None,
    )[0, len(ids) :].tolist()  # fmt: skip
    with pytest.raises(IndexError):  # a token more
        trunk.model(input_ids=torch.tensor([[*ids, *wanted]]))
    heads = tiny.random_heads(ChainHeadsConfig(4), 0, trunk.shape)
    prompt = prompt_of(trunk, ids)
    sources = (Reference((*wanted, 3, 3)), DraftPrompt(opt(1), prompt))
    request = Request(prompt, TokenRules(()), 50, tuple(ids), sources)
    runner = Runner(trunk, {"heads": heads}, draft=opt(1))
    for rows in ([request], [request, Request(prompt_of(trunk, ids[:2]), TokenRules(()), 3, (), sources)]):
        for name in STRATEGIES:
            said, traces = runner.run(rows, [parse_strategy(name)] * len(rows))
            assert said[0] == wanted, name
            assert "limit" in traces[0].flags


def test_a_prompt_past_the_last_position_is_one_line() -> None:
    trunk = opt()
    prompt = prompt_of(trunk, [3] * POSITIONS)
    longer = Prompt(prompt.embeddings, prompt.positions + 1, prompt.lengths, prompt.next_position + 1)
    runner = Runner(trunk, {})
    engine = runner.engine(1)
    with pytest.raises(
        ConfigError, match="to position 11, expected at most 10, the last one of OPTForCausalLM"
    ) as caught:
        engine.join(Request(longer, TokenRules((2,))), parse_strategy("ar"))
    assert "\n" not in str(caught.value)
    assert engine.free == 1, "the slot is still free"


def test_texts_to_train_on_are_not_clamped() -> None:
    trunk = opt()
    size = POSITIONS + 1
    with pytest.raises(ShapeError, match="trunk: position 11, expected at most 10"):
        trunk(torch.zeros(1, size, 16).double(), torch.arange(size)[None], torch.zeros(1, size).long())
