"""Moonshine in plain PyTorch computes what transformers' own class computes, and needs nothing of it."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MoonshineConfig

import speechmtp
from speechmtp.ancestors import ancestors_of
from speechmtp.bundle import load_bundle, save_bundle
from speechmtp.models.bases.generation_settings import folder_settings, plain_settings
from speechmtp.models.bases.moonshine_model import LeanMoonshine, WaveConv
from speechmtp.models.bases.moonshine_sizes import sizes_of
from speechmtp.models.config_settings import computing_settings
from speechmtp.models.lean_model import transformers_model
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.types import Prompt
from tests import tiny

SIZES: dict[str, Any] = {
    "vocab_size": 24, "hidden_size": 24, "intermediate_size": 40, "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "biased": {"attention_bias": True, "tie_word_embeddings": False, "pad_token_id": 2},
    "rotary": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}},
    "old rotary": {"rope_theta": 700.0, "partial_rotary_factor": 0.62, "rope_scaling": None, "torch_dtype": "float32"},
    "odd": {"hidden_size": 18, "encoder_num_attention_heads": 3, "decoder_num_attention_heads": 3},
    "padded": {"pad_head_dim_to_multiple_of": 8, "encoder_num_key_value_heads": 2, "eos_token_id": [2, 3]},
}
variants = pytest.mark.parametrize("name", VARIANTS)


def lean(name: str, seed: int = 0) -> LeanMoonshine:
    """A model of a variant with random weights in float64."""
    sizes = sizes_of(SIZES | VARIANTS[name])
    assert sizes is not None
    with torch.random.fork_rng():
        model = LeanMoonshine(sizes)
    rng = tiny.generator(seed)
    for parameter in model.double().parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64) / parameter.shape[-1] ** 0.5
    return model.eval()


def samples(rows: int, size: int, seed: int = 0) -> Tensor:
    """Noise [B, N]."""
    return torch.randn(rows, size, generator=tiny.generator(seed), dtype=torch.float64)


def close(one: Tensor, other: Tensor, most: float = 1e-10) -> None:
    """Equal but for the last digits."""
    assert one.shape == other.shape
    assert float((one - other).abs().max()) <= most * float(other.abs().max())


@variants
@torch.no_grad()
def test_the_encoder_is_that_of_transformers(name: str) -> None:
    model = lean(name)
    for rows, size in ((1, 895), (1, 6000), (3, 4001)):
        heard = samples(rows, size)
        close(model.get_encoder()(heard).last_hidden_state, model.twin().get_encoder()(heard).last_hidden_state)


@torch.no_grad()
def test_in_single_precision_the_encoder_differs_in_the_last_digits() -> None:
    model = lean("plain").float()
    heard = samples(1, 16000).float()
    found, own = (one.get_encoder()(heard).last_hidden_state for one in (model, model.twin()))
    assert found.dtype == torch.float32
    close(found, own, 1e-5)


def stepwise(trunk: Seq2SeqTrunk, seed: int) -> list[Tensor]:
    """States of a scene: rows with memories of different lengths, a prompt, commits of different lengths, a tree."""
    rng = tiny.generator(seed)
    rows, lengths = 3, [7, 3, 5]
    memory = torch.randn(rows, 7, trunk.width, generator=rng, dtype=torch.float64)
    ids = torch.randint(0, trunk.vocab_size, (rows, 4), generator=rng)
    size = torch.full((rows,), 4)
    positions = torch.arange(4).expand(rows, -1)
    cache = trunk.new_cache(0)
    trunk.join(cache, Prompt(trunk.embed(ids), positions, size, size, memory, torch.tensor(lengths)))
    found = [trunk.extend(trunk.embed(ids), positions, None, cache).hidden]
    cache.commit([4, 2, 3])
    _, parent = tiny.random_tree(rng, rows, 5)
    nodes = torch.randint(0, trunk.vocab_size, (rows, 5), generator=rng)
    places = cache.lengths[:, None] + torch.arange(5)
    states = trunk.extend(trunk.embed(nodes), places, ancestors_of(parent), cache, (0, 1, 2))
    assert states.taps is not None
    found += [states.hidden, states.taps]
    cache.select([2, 0])
    cache.commit([1, 2])
    found.append(trunk.extend(trunk.embed(nodes[:2, :1]), cache.lengths[:, None], None, cache).hidden)
    return [*found, trunk.unembed(found[-1])]


@variants
@torch.no_grad()
def test_the_decoder_is_that_of_transformers_on_ragged_caches_and_trees(name: str) -> None:
    for seed in range(3):
        model = lean(name, seed)
        own, others = Seq2SeqTrunk(model).eval(), Seq2SeqTrunk(model.twin()).eval()
        assert own.shape == others.shape and own.last_position == others.last_position
        for one, other in zip(stepwise(own, seed), stepwise(others, seed), strict=True):
            close(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_training_has_the_same_gradients(training: bool) -> None:
    """With the form of attention of each mode, from samples to logits."""
    model = lean("plain")
    ids = torch.randint(0, 24, (2, 6), generator=tiny.generator(1))
    segments = torch.tensor([[0] * 6, [0] * 4 + [-1] * 2])
    found = []
    for one in (model, model.twin()):
        trunk = Seq2SeqTrunk(one).train(training)
        model.zero_grad()
        memory = one.get_encoder()(samples(2, 3000)).last_hidden_state
        positions = torch.arange(6).expand(2, -1)
        hidden = trunk(trunk.embed(ids), positions, segments, (), memory, torch.tensor([memory.shape[1], 3])).hidden
        trunk.unembed(hidden)[segments == 0].logsumexp(-1).sum().backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})  # type: ignore[union-attr]
    for name in found[0]:
        # Eager attention rounds its softmax to single precision, and so do both.
        close(found[0][name], found[1][name], 1e-5 if training else 1e-10)


@variants
def test_settings_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    sizes, own = sizes_of(SIZES | VARIANTS[name]), MoonshineConfig(**SIZES | VARIANTS[name])
    assert sizes is not None
    assert computing_settings(sizes) == computing_settings(own)
    for setting in ("vocab_size", "num_hidden_layers", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache"):
        assert getattr(sizes, setting) == getattr(own, setting)
    own.architectures = ["MoonshineForConditionalGeneration"]
    for one, folder in ((sizes, tmp_path / "lean"), (own, tmp_path / "own")):
        one.save_pretrained(folder)
    written = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("lean", "own")]
    others = {"rope_theta", "partial_rotary_factor", "rope_scaling"}
    lost, known = ({name: one[name] for name in one.keys() - others} for one in written)
    assert lost == known


@pytest.mark.parametrize(
    "setting",
    [
        {"hidden_act": "gelu"}, {"encoder_hidden_act": "relu"}, {"attention_dropout": 0.1}, {"head_dim": 8},
        {"decoder_num_attention_heads": 4}, {"encoder_num_key_value_heads": 1}, {"hidden_size": 25},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, {"rope_scaling": {"type": "linear"}},
        {"partial_rotary_factor": 0.0}, {"partial_rotary_factor": "most"}, {"vocab_size": "many"}, {"vocab_size": 0},
        {"pad_token_id": 99}, {"model_type": "whisper"}, {"eos_token_id": [2, None]}, {"attention_bias": 1},
        {"dtype": "int7"},
    ],
    ids=str,
)  # fmt: skip
def test_other_settings_are_left_to_transformers(setting: dict[str, Any]) -> None:
    assert sizes_of(SIZES) is not None and sizes_of(SIZES | setting) is None


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ({}, True),
        ({"forced_bos_token_id": 5, "suppress_tokens": [4], "max_length": 40, "eos_token_id": [2, 3]}, True),
        ({"repetition_penalty": 1.5}, False),
        ({"eos_token_id": "last"}, False),
        ({"suppress_tokens": 4}, False),
        ({"bos_token_id": [1]}, False),
    ],
)
def test_plain_generation_settings_are_those_of_transformers(
    written: dict[str, Any], plain: bool, tmp_path: Path
) -> None:
    given = {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, **written}
    (tmp_path / "generation_config.json").write_text(json.dumps(given))
    found = plain_settings(tmp_path)
    assert (found is not None) == plain
    if found is not None:
        own = folder_settings(tmp_path)
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
                 "suppress_tokens", "begin_suppress_tokens", "max_length", "max_new_tokens", "num_beams", "do_sample",
                 "repetition_penalty", "top_k", "cache_implementation")  # fmt: skip
        assert {name: getattr(found, name) for name in names} == {name: getattr(own, name) for name in names}
        found.to_json_file(tmp_path / "again.json")
        assert json.loads((tmp_path / "again.json").read_text()).items() >= written.items()


@torch.no_grad()
def test_the_twin_follows_weights_mode_and_settings() -> None:
    model = lean("plain")
    heard, ids = samples(1, 3000), torch.tensor([[1, 5, 7]])
    first = model(input_values=heard, decoder_input_ids=ids).logits
    model.proj_out.weight.mul_(2)
    model.float().double().train()
    model.set_attn_implementation("eager")
    twin = model.twin()
    assert twin.training and twin.config._attn_implementation == "eager" and twin is model.twin()
    assert twin.proj_out.weight is model.get_decoder().embed_tokens.weight
    assert not torch.allclose(model(input_values=heard, decoder_input_ids=ids).logits, first)
    again, stored = copy.deepcopy(model.eval()), pickle.loads(pickle.dumps(model))
    wanted = model.generate(heard, max_new_tokens=5)
    for other in (again, stored):
        assert torch.equal(other.generate(heard, max_new_tokens=5), wanted) and other.twin() is not twin
    assert transformers_model(twin) is twin and transformers_model(model) is twin
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = model.nothing_like_it


@torch.no_grad()
def test_a_convolution_of_samples_is_one_matrix_product() -> None:
    with torch.random.fork_rng():
        conv = WaveConv(1, 24, 127, 64, bias=False)
    for dtype, most in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        conv.to(dtype)
        for rows, size in ((1, 127), (2, 4000), (1, 16001)):
            x = samples(rows, size)[:, None].to(dtype)
            close(conv(x), torch.nn.Conv1d.forward(conv, x), most)
    with torch.enable_grad():
        x = samples(1, 1000)[:, None].float().requires_grad_()
        assert torch.equal(conv(x), torch.nn.Conv1d.forward(conv, x)), "with gradients it is the module's own"
    assert conv.to(torch.bfloat16)(samples(1, 1000)[:, None].bfloat16()).dtype == torch.bfloat16


def test_a_folder_is_loaded_and_written_without_a_difference(tmp_path: Path) -> None:
    bundle = load_bundle(str(tiny.write_seq2seq(tmp_path / "one")))
    assert isinstance(bundle.model.trunk.model, LeanMoonshine)
    save_bundle(bundle, tmp_path / "two")
    again = load_bundle(str(tmp_path / "two")).model
    assert isinstance(again.trunk.model, LeanMoonshine)
    for name, weight in bundle.model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    written = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("one", "two")]
    assert written[0] == written[1]


COLD = """
import sys
import speechmtp
recogniser = speechmtp.load("default")
print(recogniser.transcribe(speechmtp.example("reading")))
wanted = ("transformers", "tokenizers", "huggingface_hub", "sympy", "jinja2", "accelerate", "peft", "torch._dynamo",
          "torch._inductor", "torch.distributed.tensor", "torch.fx.experimental.symbolic_shapes")
print([name for name in wanted if name in sys.modules])
"""


def test_transcribing_with_the_default_imports_nothing_that_it_does_not_need() -> None:
    done = subprocess.run([sys.executable, "-c", COLD], capture_output=True, text=True, timeout=110, check=True)
    assert done.stdout.splitlines() == [str(speechmtp.transcribe(speechmtp.example("reading"))), "[]"]
