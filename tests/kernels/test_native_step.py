"""The native step of decoders: the states of the model's own modules, and the same bits whatever stands beside."""

import native_models
import pytest
import torch
from native_models import FAMILIES, MODELS, NATIVE
from native_scenes import Scene

SCENES = 84  # of each family


@NATIVE
@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_random_scenes_give_the_modules_states_and_every_row_those_it_has_alone(family: str) -> None:
    for seed in range(SCENES):
        trunk, native = native_models.native(family, seed % MODELS)
        scene = Scene(trunk, native, seed, 17 if seed % 20 == 19 else 4)
        scene.live(5)
        for row in [row for row in scene.rows if row.entries][:: 1 if len(scene.rows) < 4 else 3]:
            width = scene.pick(2, len(row.entries) + 1)
            for found in (scene.alone(row), scene.alone(row, width)):
                assert torch.equal(found, torch.stack(row.found)), (family, seed)
