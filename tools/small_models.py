"""Small models of transformers' classes with random weights, large enough for texts to vary, in float64.

A configuration is the class's own with every size that is known here made small.
"""

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

VOCAB, WIDTH = 32, 32
LAST = 96  # positions
BOS, EOS, PAD = 1, 2, 0

# Windows and numbers of chosen keys are smaller than texts, so that what they leave out matters.
_SIZES: dict[int, str] = {
    WIDTH: "hidden_size d_model n_embd dim_model emb_dim embedding_size embedding_dim word_embed_proj_dim "
        "input_embedding_size output_embedding_size audio_embed_dim",
    48: "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim dff d_ff d_inner ffn_hidden_size dim_ff "
        "intermediate_size_mlp dense_intermediate_size n_inner feed_forward_size encoder_intermediate_size "
        "decoder_intermediate_size max_source_positions",
    24: "moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size shared_experts_intermediate_size "
        "moe_shared_expert_intermediate_size",
    16: "qk_head_dim q_lora_rank kv_lora_rank o_lora_rank gated_norm_rank laurel_rank",
    8: "head_dim swa_head_dim kv_channels dim_head d_head d_kv attention_head_size qk_rope_head_dim qk_nope_head_dim "
       "v_head_dim index_head_dim rotary_dim hidden_size_per_layer_input num_mel_bins",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads "
       "swa_num_attention_heads index_n_heads num_encoder_attention_heads num_decoder_attention_heads num_kv_heads "
       "encoder_num_attention_heads decoder_num_attention_heads num_experts n_routed_experts num_local_experts "
       "moe_num_experts expert_num sliding_window window_size attention_window_size keep_window_size local_attention "
       "index_topk attention_chunk_size sliding_window_size index_block_size floor_scale log_scaling_n_floor",
    2: "num_hidden_layers n_layer n_layers decoder_layers encoder_layers num_layers num_encoder_layers "
       "num_decoder_layers encoder_num_hidden_layers depth decoder_num_hidden_layers num_blocks n_input_layers "
       "n_recurrent_layers n_output_layers num_layers_per_stack max_window_layers num_key_value_heads "
       "swa_num_key_value_heads num_query_groups num_experts_per_tok num_experts_per_token moe_topk moe_k "
       "zero_expert_num",
    1: "n_shared_experts num_shared_experts moe_num_shared_experts num_expert_group n_groups mamba_n_groups "
       "mamba_ngroups n_group topk_group o_groups first_k_dense_replace moe_layer_start_index moe_layer_end_index "
       "num_dense_layers num_nextn_predict_layers index_topk_blocks",
    0: "num_kv_shared_layers",
    64: "encoder_hash_byte_group_vocab",
    LAST: "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions context_length model_max_length",
}  # fmt: skip
SIZES = {name: size for size, names in _SIZES.items() for name in names.split()}
SIZES |= dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size", "text_vocab_size"), VOCAB)
# None stands for a number that follows from others, or is missing.
_DERIVED = ("head_dim", "num_key_value_heads", "n_routed_experts", "n_shared_experts", "num_experts_per_tok")
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16}
# What fits together in one family.
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA, "granitemoehybrid": _MAMBA, "mamba2": {"num_heads": 4, "head_dim": 16},
    "zaya": {"num_experts_per_tok": 1}, "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "cohere_compass_text": {"rope_parameters": {
        kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
    }},
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1, "num_hidden_layers": 3},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "minicpm3": {"dim_model_base": 8},  # logits_scaling, the width over this
}  # fmt: skip
# What changes logits behind the unembedding, so that it matters.
TAILS: dict[str, Any] = {"logits_scaling": 4.0, "logit_scale": 0.3, "final_logit_softcapping": 4.0}


@dataclass(frozen=True)
class Setting:
    """A class of transformers by its configuration's `model_type`, and what of the configuration is set: `full` gives
    all layers full attention."""

    model_type: str
    class_name: str
    given: dict[str, Any] = field(default_factory=dict)
    full: bool = False
    title: str = ""

    @property
    def name(self) -> str:
        """The name of its row."""
        title = self.title or ("all layers with full attention" if self.full else "")
        return f"{self.class_name} ({self.model_type})" + (f", {title}" if title else "")


def small_config(setting: Setting) -> PreTrainedConfig:
    """Return the configuration of a setting."""
    given = shrunk(AutoConfig.for_model(setting.model_type)) | SPECIAL.get(setting.model_type, {}) | setting.given
    if setting.full:
        text = given.get("text_config", given)
        known = AutoConfig.for_model(text.get("model_type", setting.model_type))
        if hasattr(known, "layer_types"):
            text["layer_types"] = ["full_attention"] * text.get("num_hidden_layers", 2)
        else:
            text["sliding_window"] = None
    config: PreTrainedConfig = AutoConfig.for_model(setting.model_type, **given)
    for one in {id(c): c for c in (config, config.get_text_config(decoder=True))}.values():
        if any(name in TAILS for name in vars(one)):
            for name, value in TAILS.items():
                if isinstance(vars(one).get(name), (int, float)) and name not in setting.given:
                    setattr(one, name, value)
    return config


def shrunk(config: Any) -> dict[str, Any]:
    """Return settings that make a configuration small, those of its parts too."""
    known = set(vars(config)) | set(inspect.signature(type(config).__init__).parameters)
    given: dict[str, Any] = {}
    for name in known & set(SIZES):
        try:
            value = getattr(config, name, None)
        except Exception:  # it differs between layers
            continue
        if (isinstance(value, int) and not isinstance(value, bool)) or (value is None and name in _DERIVED):
            given[name] = SIZES[name]
    if "kv_lora_rank" in given:  # latent attention has as many key heads as heads
        given["num_key_value_heads"] = SIZES["num_attention_heads"]
    for name, value in (("bos_token_id", BOS), ("eos_token_id", EOS), ("pad_token_id", PAD)):
        if name in known:
            given[name] = value
    if "tie_word_embeddings" in known:  # a small tied embedding repeats its last token for ever
        given["tie_word_embeddings"] = False
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and "original_max_position_embeddings" in rope:
        given["rope_parameters"] = rope | {"original_max_position_embeddings": 4}
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None:
            given[name] = shrunk(part) | {"model_type": part.model_type}
    return given


def small_model(
    kind: type[PreTrainedModel], config: PreTrainedConfig, seed: int = 0, dtype: torch.dtype = torch.float64
) -> PreTrainedModel:
    """Return a model with random weights; ValueError if it is not small."""
    if not isinstance(config, kind.config_class):  # as AutoModelForCausalLM does for models with several parts
        config = config.get_text_config(decoder=True)
    for one in (config, config.get_text_config(decoder=True)):
        one._experts_implementation = "eager"  # the grouped products are for lower precision only
    torch.manual_seed(seed)
    model = kind(config)
    size = sum(weight.numel() for weight in model.parameters())
    if size > 15_000_000:
        raise ValueError(f"its configuration cannot be made small by names: {size} weights")
    model.to(dtype).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=rng, dtype=torch.float64)
            if weight.dim() < 2:
                weight.add_((0.1 * noise).to(dtype))  # norms keep their ones or zeros
            elif "emb" in name or "wte" in name or "wpe" in name:
                weight.copy_(noise.to(dtype))
            else:
                weight.copy_((2 * noise / weight.shape[-1] ** 0.5).to(dtype))
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    model.generation_config.decoder_start_token_id = BOS
    return model
