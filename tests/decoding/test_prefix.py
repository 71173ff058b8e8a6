"""Decoding behind fixed tokens: every strategy goes on as plain decoding does that has said them."""

from dataclasses import replace

import pytest
import scenes
import seq2seq_scenes
import tiny
import torch
from test_seq2seq_exactness import LABELS

from speechmtp.errors import ConfigError
from speechmtp.evaluation.peers import run_peer
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.prefix import with_prefix
from speechmtp.outputs import OutputPositions
from speechmtp.types import PreviousPass, Request


@pytest.mark.parametrize("seed", range(12))
def test_an_encoder_decoder_goes_on_as_transformers_does(seed: int) -> None:
    """Prefixes of the answer and random ones, in a ragged batch, some rows without."""
    scene = seq2seq_scenes.make_scene(seed)
    model, rng = scene.model, tiny.generator(seed)
    requests, answers = [], []
    for row, (request, answer) in enumerate(zip(scene.requests, scene.answers)):
        limit, size = request.limit or 0, int(torch.randint(0, 5, (), generator=rng))
        # Where first tokens are suppressed, transformers suppresses them behind any start: only its own text goes on.
        own = row % 2 == 0 or bool(model.rules.begin_suppress)
        said = answer[:-1] if own else torch.randint(3, tiny.VOCAB, (size,), generator=rng).tolist()
        said = [token for token in said if token not in model.rules.eos][: min(size, limit - 1)]
        forced = (*model.start_tokens(), *said)
        peer = run_peer(model.trunk, "greedy", forced, model.rules, limit - len(said), memory=request.prompt.memory)
        answers.append(answer[len(said) :] if own else peer.tokens)
        requests.append(with_prefix(request, said, model.trunk).knowing(PreviousPass(tuple(answer[len(said) :]))))
        assert requests[-1].ids == tuple(said) and requests[-1].limit == limit - len(said)
    forced_scene = replace(scene, requests=requests, answers=answers)
    for label in ("ar", "verify", "previous-heads:depth=2,pointers=2", LABELS[2 * seed]):
        forced_scene.check([label])


@pytest.mark.parametrize("seed", range(8))
def test_a_causal_model_goes_on_with_its_own_beginning(seed: int) -> None:
    scene = scenes.make_scene(seed)
    sizes = [seed % 3 if len(answer) > seed % 3 else len(answer) - 1 for answer in scene.tokens]
    requests = [
        with_prefix(Request(r.prompt, r.rules, r.limit, r.ids), answer[:size], scene.trunk)
        for r, answer, size in zip(scene.requests, scene.tokens, sizes)
    ]
    for label in ("ar", "verify", "lookup", "previous-heads"):
        tokens, _ = replace(scene, requests=requests).run([label])
        assert tokens == [answer[size:] for answer, size in zip(scene.tokens, sizes)]


@pytest.mark.parametrize("table", [(), (0, 0, 3, 3, 4, 9)])
@pytest.mark.parametrize("stride", [0, 1, 2])
def test_positions_go_on(table: tuple[int, ...], stride: int) -> None:
    trunk = tiny.trunk(1)
    prompt = replace(tiny.prompts(trunk, [3]), output_positions=OutputPositions(stride, table))
    request = Request(prompt, tiny.RULES, 20)
    for count in range(1, 9):
        forced = with_prefix(request, [4] * count, trunk)
        places = prompt.output_positions
        given = [request.first + places.offset(i) for i in range(count)]
        assert forced.prompt.positions[0].tolist() == [*prompt.positions[0].tolist(), *given]
        found = [forced.first + forced.prompt.output_positions.offset(i) for i in range(6)]
        assert found == [request.first + places.offset(count + i) for i in range(6)]


def test_what_has_no_prefix_stays_and_draft_models_are_refused() -> None:
    scene = scenes.make_scene(0)
    request = scene.requests[0]
    assert with_prefix(request, [], scene.trunk) is request
    assert request.source(DraftPrompt) is not None
    with pytest.raises(ConfigError, match="draft model"):
        with_prefix(request, [5], scene.trunk)
