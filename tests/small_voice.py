"""A voice with random weights and the shipped codec, small enough to speak in milliseconds."""

from pathlib import Path

import torch

from speechmtp.bundle import Bundle, BundleConfig, save_bundle
from speechmtp.codec.folder import default_codec, load_codec
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.heads.block import BlockHeadsConfig
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.models.bases.unit_lm import UnitLM
from speechmtp.models.bases.unit_settings import UnitModelSettings
from speechmtp.models.trunk import ScratchTrunkConfig
from speechmtp.models.unit_encoder import UnitEncoderConfig
from speechmtp.synthesis import Synthesiser

SETTINGS = UnitModelSettings(
    trunk=ScratchTrunkConfig(width=32, layers=2, heads=2, ff_width=64),
    units=UnitEncoderConfig(width=16, layers=2, heads=2, ff_width=32),
)
SAMPLING = SamplingConfig(temperature=0.9, top_k=40)


def small_voice(seed: int = 0) -> UnitLM:
    """A voice with random weights, whose hints and embeddings are large enough to matter."""
    torch.manual_seed(seed)
    voice = UnitLM(SETTINGS).eval()
    with torch.no_grad():
        voice.trunk.model.get_input_embeddings().weight.mul_(8)
        voice.hints.join[-1].weight.mul_(8)
        voice.durations.steps[-1].bias.copy_(-0.8 * torch.arange(len(voice.durations.steps[-1].bias)))
    return voice


def small_bundle(seed: int = 0) -> Bundle:
    """A bundle of such a voice with heads of two families."""
    voice = small_voice(seed)
    heads = {}
    for config in (ChainHeadsConfig(depth=3), BlockHeadsConfig(depth=3, correction="gru")):
        made = build_heads(config, voice.trunk.shape)
        made.start_from(voice.trunk)
        heads[config.kind] = made.eval()
    config = BundleConfig(kind="voice", model=SETTINGS, sampling=SAMPLING)
    codec = load_codec(default_codec())
    return Bundle(
        config, voice, heads, "# Card\n\nRandom weights.\n", "small", codec=codec, codec_folder=default_codec()
    )


def small_synthesiser(dtype: torch.dtype = torch.float32, seed: int = 0) -> Synthesiser:
    """A synthesiser of such a bundle."""
    return Synthesiser(small_bundle(seed), torch.device("cpu"), dtype)


def save_small_voice(folder: Path) -> Path:
    """Write such a bundle as a model folder."""
    save_bundle(small_bundle(), folder)
    return folder
