"""Moonshine's configuration without transformers: read from config.json where every setting in it is one that
`LeanMoonshine` computes as transformers does."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

# What else config.json may say, with the values that change nothing (None: any).
_HARMLESS: dict[str, tuple[Any, ...] | None] = {
    "architectures": None,
    "torch_dtype": None,
    "transformers_version": None,
    "_name_or_path": None,
    "model_type": ("moonshine",),
    "is_encoder_decoder": (True,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "return_dict": (True,),
    "rope_scaling": (None,),
}
_ROTARY = {"rope_type", "rope_theta", "partial_rotary_factor"}
_POSITIVE = (
    "vocab_size", "hidden_size", "intermediate_size", "encoder_num_hidden_layers", "decoder_num_hidden_layers",
    "encoder_num_attention_heads", "max_position_embeddings",
)  # fmt: skip


@dataclass
class MoonshineSizes:
    """Moonshine's settings under transformers' names and with its defaults; `rope_parameters` is always filled in.

    `_attn_implementation` is the form of attention, `sdpa` or `eager`.
    """

    vocab_size: int = 32768
    hidden_size: int = 288
    intermediate_size: int = 1152
    encoder_num_hidden_layers: int = 6
    decoder_num_hidden_layers: int = 6
    encoder_num_attention_heads: int = 8
    decoder_num_attention_heads: int = 8
    encoder_num_key_value_heads: int | None = None
    decoder_num_key_value_heads: int | None = None
    pad_head_dim_to_multiple_of: int | None = None
    encoder_hidden_act: str = "gelu"
    decoder_hidden_act: str = "silu"
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    decoder_start_token_id: int = 1
    use_cache: bool = True
    rope_parameters: dict[str, Any] | None = None
    is_encoder_decoder: bool = True
    attention_bias: bool = False
    attention_dropout: float = 0.0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True
    dtype: str | None = None  # of the weights as they were published

    def __post_init__(self) -> None:
        self._attn_implementation = "sdpa"

    @property
    def head_dim(self) -> int:
        """Numbers of one attention head."""
        return self.hidden_size // self.encoder_num_attention_heads

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the decoder."""
        return self.decoder_num_hidden_layers

    def get_text_config(self, decoder: bool = False) -> "MoonshineSizes":
        """Return the settings themselves, which transformers divides in other models."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name, as they are in config.json."""
        return {"model_type": "moonshine", **asdict(self)}

    def whole(self) -> Any:
        """Return transformers' own configuration with these settings."""
        from transformers import MoonshineConfig

        settings = self.to_dict()
        del settings["model_type"]
        return MoonshineConfig(**settings, architectures=["MoonshineForConditionalGeneration"])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json as transformers does."""
        self.whole().save_pretrained(folder)


def read_sizes(folder: Path) -> MoonshineSizes | None:
    """Return the settings of a folder's config.json; None if there is one that `LeanMoonshine` does not have."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return sizes_of(found) if isinstance(found, dict) else None


def sizes_of(settings: Mapping[str, Any]) -> MoonshineSizes | None:
    """Return these settings; None if there is one that `LeanMoonshine` does not have, or of a type that transformers
    would refuse."""
    own = {one.name for one in fields(MoonshineSizes)}
    given = {name: value for name, value in settings.items() if name in own}
    for name in settings.keys() - own - {"rope_theta", "partial_rotary_factor"}:
        if name not in _HARMLESS or (_HARMLESS[name] is not None and settings[name] not in (_HARMLESS[name] or ())):
            return None
    sizes = MoonshineSizes(**{"dtype": settings.get("torch_dtype"), **given})
    heads = sizes.encoder_num_attention_heads
    for name in ("encoder_num_key_value_heads", "decoder_num_key_value_heads"):
        if getattr(sizes, name) is None:
            setattr(sizes, name, getattr(sizes, name.replace("key_value", "attention")))
    if not all(_is_count(getattr(sizes, name), 1) for name in _POSITIVE):
        return None
    same = {sizes.decoder_num_attention_heads, sizes.encoder_num_key_value_heads, sizes.decoder_num_key_value_heads}
    rotary = _rotary_of(sizes.rope_parameters, settings)
    if same != {heads} or sizes.hidden_size % heads or rotary is None or not _computes(sizes):
        return None
    if int(sizes.head_dim * rotary["partial_rotary_factor"]) < 1:
        return None
    sizes.rope_parameters = rotary
    return sizes


def _computes(sizes: MoonshineSizes) -> bool:
    """Whether the settings besides sizes and rotary positions are ones that `LeanMoonshine` has."""
    ends = sizes.eos_token_id if isinstance(sizes.eos_token_id, list) else [0]
    alone = [one for one in (sizes.bos_token_id, sizes.pad_token_id) if one is not None]
    alone += [] if isinstance(sizes.eos_token_id, list) or sizes.eos_token_id is None else [sizes.eos_token_id]
    flags = (sizes.use_cache, sizes.attention_bias, sizes.tie_word_embeddings)
    return (
        sizes.encoder_hidden_act == "gelu"
        and sizes.decoder_hidden_act == "silu"
        and sizes.attention_dropout == 0
        and sizes.is_encoder_decoder is True
        and all(isinstance(flag, bool) for flag in flags)
        and isinstance(sizes.initializer_range, float)
        and (sizes.pad_head_dim_to_multiple_of is None or _is_count(sizes.pad_head_dim_to_multiple_of, 1))
        and all(_is_count(one, 0) for one in (*ends, *alone))
        and sizes.dtype in (None, "float64", "float32", "float16", "bfloat16")
        and (sizes.pad_token_id is None or sizes.pad_token_id < sizes.vocab_size)
        and _is_count(sizes.decoder_start_token_id, 0)
    )


def _rotary_of(given: Any, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the rotary parameters, which older folders have one by one; None if they are not plain ones."""
    found = given if given is not None else {}
    if not isinstance(found, dict) or found.keys() - _ROTARY or found.get("rope_type", "default") != "default":
        return None
    base = found.get("rope_theta", settings.get("rope_theta", 10000.0))
    share = found.get("partial_rotary_factor", settings.get("partial_rotary_factor", 0.9))
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (base, share))
    if not numbers or not base > 0 or not 0 < share <= 1:
        return None
    return {"rope_theta": base, "partial_rotary_factor": share, "rope_type": "default"}


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
