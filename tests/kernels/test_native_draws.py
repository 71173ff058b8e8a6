"""Native drafts under hints and sampling: what the heads' modules and the sampling's processors give."""

import pytest
import torch
from native_models import MODELS, NATIVE
from native_scenes import CLOSE
from test_native_chain import Scene, built
from torch import Tensor

from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.kernels.cpu.chain import Drawn


class DrawnScene(Scene):
    """A scene whose rows have hints, or none, and whose drafts are drawn."""

    def compare(self, temperature: float, top_k: int, with_hints: bool) -> int:
        """One draft of both ways; returns the number of tokens that are not the likeliest."""
        depth, rows = self.heads.depth, len(self.states[0].cache.known)
        base = torch.randint(0, self.trunk.vocab_size, (rows,), generator=self.rng)
        hints = torch.randn(rows, depth, self.trunk.width, generator=self.rng) if with_hints else None
        for state in self.states:
            state.hints = None if hints is None else lambda count: hints[:, :count]
        uniform = torch.rand(rows, depth, self.trunk.vocab_size, generator=self.rng).clamp(1e-6, 1 - 1e-6)
        drawn = Drawn(-(-uniform.log()).log(), temperature, top_k)
        self.heads.native = self.native
        found = self.heads.draft_chain(self.states[0], base, depth, None, False, drawn)
        assert found is not None
        self.heads.native = None
        before = torch.cat([base[:, None], found[0]], 1)
        return self.check_drawn(before, self.heads.places(found[0]), found[1], drawn)

    def check_drawn(self, before: Tensor, places: Tensor, confidence: Tensor, drawn: Drawn) -> int:
        """Every token has the largest sum of logit and noise under transformers' processors, but for near-ties."""
        processors = SamplingConfig(temperature=drawn.temperature, top_k=drawn.top_k).processors()
        other, ids = 0, self.heads.shortlist
        for d in range(1, before.shape[1]):
            above = before[:, d - 1 : d]
            features = self.heads.expand(self.states[1], d, above, torch.zeros_like(above))
            logits = self.heads.logits(features, d, self.states[1].unembed)[:, 0]
            law = logits if processors is None else processors(logits[:, None], lambda: [])[:, 0]
            noise = drawn.noise[:, d - 1] if ids is None else drawn.noise[:, d - 1, ids]
            sums, place = law + noise, places[:, d - 1 : d]
            assert float((sums.amax(1) - sums.gather(1, place)[:, 0]).max()) <= 10 * CLOSE
            likely = law.softmax(-1).gather(1, place)
            assert torch.allclose(confidence[:, d - 1 : d], likely, rtol=10 * CLOSE, atol=1e-6)
            other += int((logits.argmax(1) != place[:, 0]).sum())
        return other


@NATIVE
@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "moonshine"])
def test_drawn_drafts_are_those_of_the_modules(family: str) -> None:
    other = 0
    for seed in range(12):
        scene = DrawnScene(*built(family, seed % MODELS), seed)
        scene.states = scene.started()
        for step in range(4):
            temperature, top_k = ((1.0, 0), (0.7, 3), (1.3, 1000), (0.5, 1))[(seed + step) % 4]
            other += scene.compare(temperature, top_k, bool((seed + step // 2) % 2))
            scene.advance(scene.states, len(scene.states[0].cache.known), scene.pick(1, 5))
            scene.change()
    assert other > 20, "draws that argmax would not give"
