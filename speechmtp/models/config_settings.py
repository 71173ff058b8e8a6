"""The settings of a transformers configuration that change what a model computes, for telling two models of the same
weights apart."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

# Names of settings that change nothing in evaluation, or only what the shapes of the weights say anyway.
_ELSEWHERE = re.compile(
    r"^_|(^|_)(drop|dropout|layerdrop|pdrop|init|initializer|label2id|labels?|dtype|version|architectures|aux|loss|"
    r"suppress|classifier|summary|mask|quantization)(_|$)|token_id|tokens$|id2label|^output_|^return_|^use_cache$|"
    r"^is_(encoder_)?decoder$|^add_cross_attention$|^tie_|^max_|^problem_type$|^pretraining_tp$|^apply_spec_augment$|"
    r"^chunk_size_feed_forward$|^use_weighted_layer_sum$|^(hidden|intermediate|vocab)_size$|^d_model$|ffn_dim$"
)
_DEFAULT_ROPE = ("rope_type", "rope_theta", "partial_rotary_factor")  # what the rope type `default` reads


def computing_settings(config: Any) -> dict[str, str]:
    """Return the settings of a transformers configuration by name, as text: `rms_norm_eps`,
    `rope_parameters.rope_theta`, of a part as `audio_config.activation_function`. Names, paths, dtypes, token ids,
    dropout and sizes that are those of the weights are left out."""
    return dict(sorted(_flat(config.to_dict(), "")))


def first_difference(stored: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return the first setting that differs, as `name=stored, here=...`; empty if none does.

    A setting that only one side has counts as equal, since versions of transformers add and drop names; but for rotary
    embeddings it is a difference, since their parameters depend on their type.
    """
    for name in sorted(stored.keys() | here.keys()):
        rotary = "rope_parameters." in name and any("rope_parameters." in other for other in stored)
        if not rotary and not (name in stored and name in here):
            continue
        if stored.get(name) != here.get(name):
            return f"{name} {stored.get(name, 'not set')}, which is {here.get(name, 'not set')} here"
    return ""


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    if "rope_type" in settings:
        settings = _rotary(settings)
    for name, value in settings.items():
        if _ELSEWHERE.search(name):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, _text(value)


def _rotary(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary parameters that count."""
    given = {name: value for name, value in settings.items() if value is not None}
    if given["rope_type"] == "default":
        given = {name: given[name] for name in _DEFAULT_ROPE if name in given}
    if given.get("partial_rotary_factor") == 1:
        del given["partial_rotary_factor"]
    return given


def _text(value: Any) -> str:
    """Return a value as text, in which 1 and 1.0 are one."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value) if value is None or isinstance(value, bool | int | float) else str(value)
