"""A step waits for the device at most twice where drafts are chains, four times where they are trees."""

from typing import Any

import pytest
import seq2seq_scenes
from host_reads import HostReads
from scenes import Priced, make_scene
from test_engine import fitting

from speechmtp.decoding.engine import Engine
from speechmtp.models.trunk import Trunk
from speechmtp.types import Request

CHAINS = ("ar", "verify", "verify:theta=0.3", "threshold", "ctc", "ctc:mode=whole", "lookup", "suffix", "oracle")
TREES = ("tree", "dynamic-tree", "ctc:mode=tree", "ctc-heads", "previous-heads", "jacobi")
MAX_READS = dict.fromkeys(CHAINS, 2) | dict.fromkeys(TREES, 4)


def scene_of(kind: str, seed: int) -> tuple[Trunk, Any, list[Request]]:
    """A trunk of one kind, heads, and requests."""
    if kind == "causal":
        scene = make_scene(seed, 6, 12)
        return scene.trunk, scene.heads, scene.requests
    beside = seq2seq_scenes.make_scene(seed, whisper=kind == "whisper")
    return beside.model.trunk, beside.heads, beside.requests


@pytest.mark.parametrize("kind", ["causal", "moonshine", "whisper"])
@pytest.mark.parametrize("label", MAX_READS)
def test_the_host_reads_little_in_every_single_step(label: str, kind: str) -> None:
    """Of every trunk call: where rows have joined others, their prompts are one more."""
    steps = 0
    for seed in range(5):
        trunk, heads, requests = scene_of(kind, seed)
        runner = Priced(trunk, {"own": heads})
        bound = runner.bind(runner.prepared(fitting(label, heads.depth)))
        engine = Engine(trunk, len(requests))
        for request in requests[::2]:
            engine.join(request, bound)
        calls = 1
        while engine.busy:
            with HostReads() as reads:
                engine.step()
            assert reads.total <= calls * MAX_READS[label], reads.report()
            steps, calls = steps + 1, 1
            if engine.busy and requests[1::2] and steps % 7 == 0 and engine.free:
                engine.join(requests[1], bound)
                calls = 2
    assert steps > 6
