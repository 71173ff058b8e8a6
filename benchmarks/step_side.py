"""One side of `step.py`: a model whose parts are called alone, in the state in which decoding left them.

Scenes are engines that have decoded real recordings up to some thirty tokens a row with a strategy of chains, so that
lengths of memories and texts are those of use and differ between rows. Nothing measured is committed, so a scene stays
as it is. Every time is the processor time of this thread.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from checkout import Session
from loop_overhead import Clock
from sides import answer_all

import speechmtp
from speechmtp.data.kaldi import read_data_dir
from speechmtp.decoding.engine import Engine
from speechmtp.decoding.lanes import taps_of
from speechmtp.decoding.layout import lay_out
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.types import CtcSource, Request, chain_draft

COMMITTED, LEFT = 30, 6  # tokens a row in a scene, on average; that a row has before it at least
SINGLE = 4  # scenes of one row
PARTS = ("layers", "unembedding", "drafter", "advance")


@dataclass
class Scene:
    """An engine in the middle of decoding, and the tokens that its rows will emit."""

    engine: Engine
    known: dict[int, Sequence[int]]  # by slot
    drafted: torch.Tensor | None = None  # tokens of the draft that was timed

    @classmethod
    def make(cls, runner: Any, requests: Sequence[Request], known: Sequence[Sequence[int]], strategy: Strategy) -> Any:
        """Decode until rows have `COMMITTED` tokens on average, or one is near its end."""
        engine = runner.engine(len(requests))
        slots = [engine.join(request, strategy) for request in requests]
        scene = cls(engine, dict(zip(slots, known)))
        while engine.busy:
            engine.step()
            rows = engine._live.rows
            if len(rows) < len(requests):
                raise ConfigError("step: texts of too few tokens; give a data directory of longer ones")
            left = min(len(scene.known[row.slot]) - len(row.tokens) for row in rows)
            if left < LEFT or sum(len(row.tokens) for row in rows) >= COMMITTED * len(rows):
                break
        return scene

    @torch.inference_mode()
    def call(self, width: int) -> tuple[float, float, float]:
        """Seconds of the layers, of the logits and of the most probable tokens of a call of `width` entries a row,
        which is not committed."""
        batch, lanes, trunk = self.engine._live, self.engine._lanes, self.engine.trunk
        draft = []
        for row in batch.rows:
            coming = list(self.known[row.slot][len(row.tokens) :][: width - 1])
            draft.append(coming + [row.tokens[-1]] * (width - 1 - len(coming)))
        tokens = torch.tensor(draft, dtype=torch.long, device=batch.device).view(len(draft), width - 1)
        inputs, positions, ancestors = lay_out(batch, chain_draft(tokens))
        batch.focus()
        times = [time.thread_time()]
        hidden = trunk.extend(inputs, positions, ancestors, batch.cache, taps_of(lanes)).hidden
        times.append(time.thread_time())
        trunk.unembed(hidden)
        times.append(time.thread_time())
        if not hasattr(trunk, "choose") or trunk.choose(hidden) is None:
            trunk.unembed(hidden).argmax(-1)
        times.append(time.thread_time())
        layers, logits, chosen = (after - before for before, after in pairwise(times))
        return layers, logits, chosen

    @torch.inference_mode()
    def draft(self) -> float:
        """Seconds of a draft. What heads keep of it is taken back, so that the next one is the same; ConfigError if it
        is not."""
        [lane] = self.engine._lanes
        self.engine._live.focus()
        kept = {name: copy(value) for name, value in vars(lane.head_state).items() if isinstance(value, list | dict)}
        kept = vars(lane.head_state) | kept
        began = time.thread_time()
        draft = lane.bound.drafter.propose(lane)
        taken = time.thread_time() - began
        vars(lane.head_state).update(kept)
        if self.drafted is not None and not torch.equal(self.drafted, draft.tokens):
            raise ConfigError("step: a draft is another when it is made again; these heads cannot be timed alone")
        self.drafted = draft.tokens
        return taken


class Bench:
    """A model, what it has heard, and scenes by their number of rows."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.session = Session.load(asked["model"], device="cpu")
        self.recogniser = self.session.recogniser
        runner = self.recogniser.runner
        self.strategy = runner.prepared(parse_strategy(asked["strategy"]))
        data = read_data_dir(asked["data"], asked["root"] or None)
        self.heard = self.longest(data.utterances, max([SINGLE, *asked["rows"]]))
        self.scenes: dict[int, list[Scene]] = {}
        for rows in asked["rows"]:
            groups = [self.heard[i : i + rows] for i in range(0, SINGLE if rows == 1 else rows, rows)]
            self.scenes[rows] = [
                Scene.make(runner, [one[1] for one in group], [one[2] for one in group], self.strategy)
                for group in groups
            ]

    def longest(self, utterances: Sequence[Any], wanted: int) -> list[tuple[Any, Request, list[int]]]:
        """Samples, request and tokens of the first recordings with enough tokens for a scene, or of those with most."""
        found: list[tuple[Any, Request, list[int]]] = []
        enough = COMMITTED + LEFT
        for at in range(0, min(len(utterances), 4 * wanted), wanted):
            samples = [one.load(self.recogniser.rate, False) for one in utterances[at : at + wanted]]
            heard = [(one, self.session.listen(one, "audio")) for one in samples]
            heard = [one for one in heard if not one[1].empty]
            requests = [request for _, request in heard]
            known = self.recogniser.runner.run(requests, [parse_strategy("ar")] * len(requests))[0]
            found += [(*one, tokens) for one, tokens in zip(heard, known)]
            if sum(len(tokens) >= enough for *_, tokens in found) >= wanted:
                break
        if len(found) < wanted:
            raise ConfigError(f"step: {len(found)} recordings, expected {wanted}; give a data directory of more")
        return sorted(found, key=lambda one: -min(len(one[2]), enough))[:wanted]

    def measure(self, part: str, rows: int, width: int, repeats: int) -> dict[str, list[float]]:
        """Seconds of some parts, `repeats` of each; means over scenes."""
        scenes = self.scenes.get(rows, [])
        if part == "step":
            each = [[scene.call(width) for scene in scenes] for _ in range(repeats)]
            layers, logits, chosen = ([sum(one[i] for one in all) / len(all) for all in each] for i in range(3))
            return {
                "layers": layers, "unembedding": logits,
                "layers and unembedding": [a + b for a, b in zip(layers, logits)],
                "layers and tokens": [a + b for a, b in zip(layers, chosen)],
            }  # fmt: skip
        if part == "heads":
            return {"draft": [sum(scene.draft() for scene in scenes) / len(scenes) for _ in range(repeats)]}
        if part == "hearing":
            return self.hearing()
        return self.loop(rows)

    def hearing(self) -> dict[str, list[float]]:
        """Seconds a second of audio: once to encode and make requests, and once to read the CTC head's output."""
        encoder, speller, audio = 0.0, 0.0, 0.0
        for samples, *_ in self.heard[:SINGLE]:
            began = time.thread_time()
            request = self.session.listen(samples, "audio")
            between = time.thread_time()
            source = request.source(CtcSource)
            if source is not None:
                source.read()
            encoder, speller = encoder + between - began, speller + time.thread_time() - between
            audio += request.audio_seconds
        return {"encoder": [encoder / audio], "CTC speller": [speller / audio]}

    def loop(self, rows: int) -> dict[str, list[float]]:
        """Seconds a call of decoding whole recordings, the call of their prompts left out: all of it, and what is left
        of it without the trunk, the drafter and the heads."""
        calls, seconds = 0, dict.fromkeys((*PARTS, "outside"), 0.0)
        for at in range(0, SINGLE if rows == 1 else rows, rows):
            engine = self.recogniser.runner.engine(rows)
            for _, request, _ in self.heard[at : at + rows]:
                engine.join(request, self.strategy)
            engine.step()
            [lane] = engine._lanes
            with ExitStack() as stack:
                clock = Clock(time.thread_time)
                for owner, name, part in (
                    (engine.trunk, "extend", "layers"), (engine.trunk, "unembed", "unembedding"),
                    (engine.trunk, "choose", "unembedding"),
                    (type(lane.bound.drafter), "propose", "drafter"), (engine._step, "advance", "advance"),
                ):  # fmt: skip
                    if not hasattr(owner, name):  # in older checkouts
                        continue
                    timed = clock.timed(getattr(owner, name), part, "drafter")
                    stack.enter_context(mock.patch.object(owner, name, timed))
                while engine.busy:
                    engine.step()
                    calls += 1
                clock.turn()
            for part in seconds:
                seconds[part] += clock.seconds[part]
        each = {part: taken / max(1, calls) for part, taken in seconds.items()}
        whole = sum(each.values())
        return {
            "call": [whole], "loop": [each["outside"]], "advance": [each["advance"]],
            "drafting in it": [each["drafter"]], "trunk in it": [each["layers"] + each["unembedding"]],
        }  # fmt: skip


def serve(requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """To the first request what was loaded; then times of a part."""
    bench = Bench(next(requests))
    sizes = {rows: [len(row.tokens) for scene in scenes for row in scene.engine._live.rows]
             for rows, scenes in bench.scenes.items()}  # fmt: skip
    yield {
        "package": str(Path(speechmtp.__file__).parent.parent), "torch": torch.__version__,
        "strategy": bench.strategy.label, "tokens": sizes,
    }  # fmt: skip
    for asked in requests:
        yield bench.measure(asked["part"], asked["rows"], asked["width"], asked["repeats"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer_all(serve)
