"""What norms of transformers' models compute, whatever they are named and whatever their weights mean."""

import importlib
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from speechmtp.models.norms import NormParts, final_norm, layer_norms, norm_parts

WIDTH = 12
NORMS: dict[str, tuple[Any, str, bool, bool]] = {  # class, kind, whether it has weights, whether they are stored less 1
    "LayerNorm": (nn.LayerNorm(WIDTH, eps=1e-4), "layer", True, False),
    "llama.LlamaRMSNorm": ((WIDTH, 1e-5), "rms", True, False),
    "gemma.GemmaRMSNorm": ((WIDTH, 1e-5), "rms", True, True),
    "nemotron.NemotronLayerNorm1P": ((WIDTH, 1e-3), "layer", True, True),
    "olmo.OlmoLayerNorm": ((WIDTH,), "layer", False, False),
    "cohere.CohereLayerNorm": ((WIDTH,), "layer", True, False),
}


def norm_of(name: str) -> nn.Module:
    """A norm of random weights."""
    made = NORMS[name][0]
    if isinstance(made, tuple):
        family, cls = name.split(".")
        made = getattr(importlib.import_module(f"transformers.models.{family}.modeling_{family}"), cls)(*made)
    for weight in made.parameters():
        nn.init.normal_(weight, 0.4, 0.5, generator=tiny.generator(4))
    norm: nn.Module = made
    return norm


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NORMS)
def test_parts_compute_what_the_norm_computes(name: str, dtype: torch.dtype) -> None:
    norm, (_, kind, weighted, less) = norm_of(name).to(dtype), NORMS[name]
    parts = norm_parts(norm, WIDTH)
    assert parts.kind == kind and (parts.weight is not None) == weighted
    if parts.weight is not None:
        stored = norm.weight.to(parts.weight.dtype)  # type: ignore[union-attr, arg-type]
        assert torch.equal(parts.weight, 1 + stored if less else stored)
    x = 1 + torch.randn(5, WIDTH, generator=tiny.generator(1), dtype=torch.float64)
    weight, bias = (None if part is None else part.double() for part in (parts.weight, parts.bias))
    shape = (WIDTH,)
    ours = F.rms_norm(x, shape, weight, parts.eps) if kind == "rms" else F.layer_norm(x, shape, weight, bias, parts.eps)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(ours, norm(x.to(dtype)).double(), rtol=tolerance, atol=tolerance)


def test_the_final_norm_is_the_last_of_a_decoder() -> None:
    decoder = nn.ModuleDict(
        {"first": nn.LayerNorm(3), "layers": nn.ModuleList([nn.Linear(3, 3)]), "last": nn.RMSNorm(3)}
    )
    assert final_norm(decoder) is decoder["last"]
    assert final_norm(nn.ModuleDict({"layers": nn.Linear(3, 3)})) is None
    assert NormParts().named("final_norm") == {}


def test_norms_of_a_layer_are_named_with_what_they_multiply_with() -> None:
    layer = nn.ModuleDict({"a": norm_of("gemma.GemmaRMSNorm"), "b": norm_of("LayerNorm"), "c": nn.Linear(3, 3)})
    found = dict(layer_norms(layer))
    assert set(found) == {"a.weight", "b.weight", "b.bias"}
    assert torch.equal(found["a.weight"], 1 + layer["a"].weight)  # type: ignore[operator, arg-type]
    assert torch.equal(found["b.weight"], layer["b"].weight)  # type: ignore[arg-type]
