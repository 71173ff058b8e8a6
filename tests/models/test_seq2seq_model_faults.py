"""Faults of pretrained encoder-decoders looked for in ours: what the encoder hears, whose logits these are, which ids
may be said, and where positions end."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from transformers import GenerationConfig, MoonshineConfig, MoonshineForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

import speechmtp
from speechmtp.bundle import load_bundle
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import CheckpointError, DataError, ShapeError
from speechmtp.heads.decoder_layer import DecoderLayer
from speechmtp.models.bases.encoder_decoder import EncoderDecoder
from speechmtp.models.bases.moonshine import Moonshine, MoonshineSettings
from speechmtp.models.bases.whisper import Whisper
from speechmtp.models.masks import causal_mask
from speechmtp.models.rotary import rotary
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.types import Prompt

MAKERS: dict[str, Any] = {"moonshine": tiny.tiny_moonshine, "whisper": tiny.tiny_whisper}
both = pytest.mark.parametrize("family", MAKERS)


def recording(size: int, seed: int = 0) -> Tensor:
    """Noise [N] in float32."""
    return 0.3 * torch.randn(size, generator=tiny.generator(seed))


def largest(difference: Tensor) -> float:
    """Largest absolute value."""
    return float(difference.abs().max())


# Encoder.


@torch.no_grad()
def test_fault_the_encoder_is_the_stock_one_on_a_whole_window() -> None:
    """Difference 0.0, for recordings of any length: they are padded to the window, so that the silence is heard which
    tells the model to stop."""
    model = tiny.tiny_whisper(3)
    for size in (1, 160, 4000, 16000):
        features = model.extractor(recording(size).numpy(), sampling_rate=16000, return_tensors="pt")["input_features"]
        stock = model.trunk.model.get_encoder()(features.double()).last_hidden_state  # type: ignore[operator]
        assert features.shape[-1] == 100 and torch.equal(model.memory(recording(size)), stock)
        assert model.memory(recording(size)).shape == (1, 50, tiny.WIDTH)


@torch.no_grad()
def test_fault_a_trimmed_window_is_refused_by_the_stock_encoder() -> None:
    model = tiny.tiny_whisper(3)
    with pytest.raises(ValueError, match="mel input features"):
        model.encode_audio(model.inputs(recording(4000))[..., :-2])


@torch.no_grad()
def test_fault_samples_are_padded_and_not_the_log_mel() -> None:
    """Zeros in the log-mel are loud."""
    model = tiny.tiny_whisper(3)
    padded = torch.cat([recording(4000), torch.zeros(12000)])
    assert torch.equal(model.memory(recording(4000)), model.memory(padded))
    loud = model.inputs(recording(4000))
    loud[..., 25:] = 0
    assert largest(model.encode_audio(loud) - model.memory(padded)) > 1e-2


@torch.no_grad()
def test_fault_padding_in_the_encoder_is_heard_so_that_each_recording_is_encoded_alone() -> None:
    """Moonshine's group norm runs over all time: what is there already is heard otherwise beside silence."""
    model = tiny.tiny_moonshine(1)
    alone = model.memory(recording(6000))
    padded = model.memory(torch.cat([recording(6000), torch.zeros(6000)]))
    assert largest(padded[:, : alone.shape[1]] - alone) > 1e-3
    stock = model.trunk.model.get_encoder()(recording(6000)[None].double()).last_hidden_state  # type: ignore[operator]
    assert torch.equal(alone, stock)


@both
def test_fault_padding_in_the_encoder_a_batch_of_recordings_is_each_of_them_alone(family: str, tmp_path: Path) -> None:
    """From samples on, in float64, whoever is beside it."""
    recogniser = speechmtp.load(str(tiny.write_seq2seq(tmp_path / "model", family, 5)), dtype="float64")
    sizes = (900, 16000, 5000, 9000)
    heard = [recogniser.listen(recording(size, seed).numpy()) for seed, size in enumerate(sizes)]
    for label in ("ar", "lookup"):
        together = recogniser.decode(heard, parse_strategy(label))
        for one, result in zip(heard, together):
            [alone] = recogniser.decode([one], parse_strategy(label))
            assert (alone.tokens, alone.trace) == (result.tokens, result.trace)
    assert len({result.tokens for result in together}) > 1


def test_fault_recordings_that_the_encoder_cannot_take(tmp_path: Path) -> None:
    """Too short is said before a convolution fails, too long before a window cuts it silently."""
    recogniser = speechmtp.load(str(tiny.write_seq2seq(tmp_path / "model")))
    with pytest.raises(DataError, match=r"take: 0\.056 s are too short"):
        recogniser.listen(recording(894).numpy(), "take")
    assert recogniser.listen(recording(895).numpy()).prompt.memory.shape[1] == 1  # type: ignore[union-attr]
    whisper = speechmtp.load(str(tiny.write_seq2seq(tmp_path / "whisper", "whisper")))
    with pytest.raises(DataError, match="at most 30 s are heard at a time"):
        whisper.listen(recording(30 * 16000 + 1).numpy())


# Decoder.


@both
def test_fault_heads_find_every_matrix_of_the_last_layer(family: str) -> None:
    """Under their own names and in their own shapes, whatever the model calls them; a plain MLP is no gated one."""
    trunk = MAKERS[family]().trunk
    given, own = trunk.last_layer(), DecoderLayer(trunk.shape).state_dict()
    lost = {name for name, weight in own.items() if name not in given or given[name].shape != weight.shape}
    gated = {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}
    assert lost == (set() if family == "moonshine" else gated)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_fault_memories_of_mixed_lengths_in_a_batch_are_each_alone(seed: int) -> None:
    """States of teacher forcing and of decoding; what stands behind a memory's end is rubbish."""
    model = tiny.tiny_moonshine(seed)
    trunk, lengths = model.trunk, [5, 1, 12, 3]
    prompt = tiny.memory_prompts(model, lengths, seed)
    ids = torch.randint(0, tiny.VOCAB, (4, 7), generator=tiny.generator(seed))
    inputs, positions, segments = trunk.embed(ids), torch.arange(7).repeat(4, 1), torch.zeros_like(ids)
    forced = trunk(inputs, positions, segments, (1,), prompt.memory, prompt.memory_lengths)
    decoded = trunk.extend(inputs, positions, None, trunk.new_cache(4, prompt), (1,))
    for row in range(4):
        one = prompt.row(row)
        assert one.memory is not None and one.memory.shape[1] == lengths[row]
        part = slice(row, row + 1)
        alone = trunk(inputs[part], positions[part], segments[part], (1,), one.memory, one.memory_lengths)
        for states in (forced, decoded):
            torch.testing.assert_close(states.hidden[part], alone.hidden, rtol=0, atol=1e-12)
            torch.testing.assert_close(states.taps[part], alone.taps, rtol=0, atol=1e-12)  # type: ignore[index]


@torch.no_grad()
def test_fault_a_decoder_that_looks_at_padding_is_not_given_any() -> None:
    """Whisper's passes no mask to its layers, whatever it is given: mixed lengths are refused, by name."""
    model = tiny.tiny_whisper(1)
    mixed = tiny.memory_prompts(model, [50, 49])
    inputs, positions = model.trunk.embed(torch.ones(2, 3, dtype=torch.long)), torch.arange(3).repeat(2, 1)
    with pytest.raises(ShapeError, match=r"encoder outputs of \[49, 50\] entries in a batch, expected one length"):
        model.trunk.new_cache(2, mixed)
    with pytest.raises(ShapeError, match="WhisperForConditionalGeneration looks at padding"):
        model.trunk(inputs, positions, torch.zeros(2, 3), (), mixed.memory, mixed.memory_lengths)
    model.trunk.new_cache(2, tiny.memory_prompts(model, [49, 49]))


@torch.no_grad()
@both
def test_fault_logits_are_the_models_own_without_a_scale(family: str) -> None:
    """States stand between the final norm and the tied projection; suppressed ids apart, equal numbers."""
    model: EncoderDecoder = MAKERS[family](2)
    trunk = model.trunk
    prompt = tiny.memory_prompts(model, [6, 6])
    ids = torch.randint(0, trunk.vocab_size, (2, 8), generator=tiny.generator(1))
    stock: Any = trunk.model
    heard: Any = BaseModelOutput(last_hidden_state=prompt.memory)
    heard.attention_mask = None  # Moonshine asks for it
    wanted = stock(encoder_outputs=heard, decoder_input_ids=ids).logits
    positions = torch.arange(8).repeat(2, 1)
    hidden = trunk(trunk.embed(ids), positions, torch.zeros_like(ids), (), prompt.memory, prompt.memory_lengths).hidden
    torch.testing.assert_close(trunk.unembedding()(hidden), wanted, rtol=0, atol=1e-12)
    never = torch.tensor(model.rules.suppress, dtype=torch.long)
    said = [i for i in range(trunk.vocab_size) if i not in model.rules.suppress]
    assert torch.equal(trunk.unembed(hidden), trunk.unembedding()(hidden))
    assert torch.equal(trunk.teacher_logits(hidden)[..., said], trunk.unembedding()(hidden)[..., said])
    assert bool((trunk.teacher_logits(hidden)[..., never] == torch.finfo(torch.float64).min).all())


@both
def test_fault_the_projection_stays_tied(family: str, tmp_path: Path) -> None:
    """After loading, moving and training mode; stored once."""
    model = load_bundle(str(tiny.write_seq2seq(tmp_path / "model", family))).model
    assert isinstance(model, EncoderDecoder)
    for moved in (model, model.double(), model.train(), model.eval()):
        trunk = moved.trunk
        assert trunk.unembedding().weight is trunk.model.get_decoder().embed_tokens.weight  # type: ignore[union-attr]


@torch.no_grad()
def test_fault_an_entry_carries_no_placeholder_for_audio() -> None:
    """The prompt is the start tokens; the audio is in the memory alone, which states depend on at every entry."""
    for make in MAKERS.values():
        model: EncoderDecoder = make(1)
        first, second = (tiny.memory_prompts(model, [7], seed) for seed in (0, 1))
        assert torch.equal(first.embeddings[0], model.trunk.embed(torch.tensor(model.start_tokens())))
        assert torch.equal(first.embeddings, second.embeddings) and first.lengths.tolist() == [
            len(model.start_tokens())
        ]
        states = [_states(model.trunk, prompt) for prompt in (first, second)]
        assert float((states[0] - states[1]).abs().amax(-1).min()) > 1e-3


def _states(trunk: Seq2SeqTrunk, prompt: Prompt) -> Tensor:
    return trunk.extend(prompt.embeddings, prompt.positions, None, trunk.new_cache(1, prompt)).hidden


@torch.no_grad()
def test_fault_neighbours_turn_together_in_moonshine_and_halves_in_heads() -> None:
    """The last layer as heads copy it, nine tenths of each head turned, is the model's own layer."""
    config = MoonshineConfig(
        vocab_size=11, hidden_size=40, intermediate_size=24, encoder_num_hidden_layers=1, decoder_num_hidden_layers=2,
        encoder_num_attention_heads=2, decoder_num_attention_heads=2, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, pad_token_id=2,
    )  # fmt: skip
    stock = MoonshineForConditionalGeneration(config)
    tiny.randomise(stock, 1)
    for name, weight in stock.named_parameters():
        if "mlp" in name and name.endswith("bias"):
            weight.zero_()  # the heads' layers have none
    trunk = Moonshine(MoonshineSettings(), stock, None, GenerationConfig()).trunk
    assert trunk.shape.rotary_dim == 18 and trunk.shape.head_dim == 20
    layer = DecoderLayer(trunk.shape).double()
    layer.load_state_dict({name: w for name, w in trunk.last_layer().items() if name in layer.state_dict()})
    memory = torch.randn(1, 6, 40, dtype=torch.float64, generator=tiny.generator(2))
    inputs, positions = trunk.embed(torch.tensor([[1, 5, 3, 9, 4]])), torch.tensor([[0, 1, 2, 3, 4]]) + 17
    segments = torch.zeros(1, 5, dtype=torch.long)
    taps = trunk(inputs, positions, segments, (1, 2), memory, torch.tensor([6])).taps
    assert taps is not None
    turn = rotary(positions, trunk.shape, torch.float64)
    found = layer(taps[:, :, 0], turn, causal_mask(segments), None, layer.remember(memory, None))
    torch.testing.assert_close(found, taps[:, :, 1], rtol=0, atol=1e-5)  # angles are float32 in transformers


@torch.no_grad()
def test_fault_positions_past_the_last_learned_one() -> None:
    """A draft that reaches behind them does no harm to what stands before."""
    model = tiny.tiny_whisper(1)
    trunk, prompt = model.trunk, tiny.memory_prompts(model, [8])
    ids = torch.randint(0, 11, (1, 48), generator=tiny.generator(3))
    inputs, positions = trunk.embed(ids), torch.arange(48)[None]
    whole = trunk.extend(inputs, positions, None, trunk.new_cache(1, prompt)).hidden
    part = trunk.extend(inputs[:, :40], positions[:, :40], None, trunk.new_cache(1, prompt)).hidden
    torch.testing.assert_close(whole[:, :40], part, rtol=0, atol=1e-12)
    assert bool(whole.isfinite().all())


# Distribution.


def test_fault_the_limit_never_reaches_past_the_positions() -> None:
    moonshine, whisper = tiny.tiny_moonshine(), tiny.tiny_whisper()
    assert [moonshine.limit(seconds) for seconds in (0, 0.1, 1, 2, 8)] == [2, 3, 9, 15, 54]
    assert [whisper.limit(seconds) for seconds in (0, 0.1, 1, 2)] == [8, 9, 15, 21]
    assert moonshine.limit(1e6) == 63 and whisper.limit(1e6) == 38, "positions less the start tokens"
    for model in (moonshine, whisper):
        model.config = replace(model.config, tokens_per_second=0.0, extra=0)
        assert model.limit(3) == 1, "an output has a token at least"


def reopened(**settings: Any) -> EncoderDecoder:
    """A Whisper with other generation settings."""
    model = tiny.tiny_whisper()
    generation = GenerationConfig.from_dict(model.generation.to_dict() | settings)
    return Whisper(model.config, model.trunk.model, model.extractor, generation)


def test_fault_off_by_one_special_ids_come_from_the_models_own_files() -> None:
    """Prompts of English models have two tokens, of others four; no id is known by heart."""
    assert tiny.tiny_whisper().start_tokens() == (1, 12)
    several: dict[str, Any] = {"lang_to_id": {"<|en|>": 6}, "task_to_id": {"transcribe": 9}, "is_multilingual": True}
    model = reopened(**several, no_timestamps_token_id=11)
    assert model.start_tokens("en") == (1, 6, 9, 11) and model.rules.suppress == (1, 5, 11, 12, 13, 14)
    memory = torch.zeros(2, 4, tiny.WIDTH, dtype=torch.float64)
    prompt = reopened(**several).prompt(memory, None, model.start_tokens("en"))
    assert prompt.embeddings.shape[1] == 4 and prompt.positions.tolist() == [[0, 1, 2, 3]] * 2
    assert prompt.next_position.tolist() == [4, 4]


def test_fault_the_end_token_can_always_be_said() -> None:
    """Though not first; timestamps and the token before them never."""
    rules = reopened(suppress_tokens=[2, 3], begin_suppress_tokens=[2, 3, 4]).rules
    assert rules.suppress == (3, 12, 13, 14) and rules.begin_suppress == (2, 4)
    assert reopened(suppress_tokens=None, begin_suppress_tokens=None).rules.suppress == (12, 13, 14)


@pytest.mark.parametrize("lost", ["no_timestamps_token_id", "lang_to_id"])
def test_fault_a_distribution_that_cannot_be_read_is_one_line(lost: str, tmp_path: Path) -> None:
    folder = tiny.write_seq2seq(tmp_path / "model", "whisper")
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text()) | {"is_multilingual": lost == "lang_to_id"}
    settings.pop(lost, None)
    path.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="cannot be loaded as whisper") as caught:
        load_bundle(str(folder))
    assert "\n" not in str(caught.value) and lost in str(caught.value)


def test_fault_more_tokens_in_the_tokenizer_than_in_the_model(tmp_path: Path) -> None:
    """Drafts from its text would be ids that no embedding has."""
    folder = tiny.write_seq2seq(tmp_path / "model")
    small = tiny.tiny_moonshine(0, 20)
    small.trunk.model.float().save_pretrained(folder)
    with pytest.raises(CheckpointError, match="the tokenizer has 35 tokens, the model 20"):
        load_bundle(str(folder))
