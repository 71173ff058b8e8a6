"""Tokens that a trunk draws itself, to train its heads on what they will draft: the trunk's own law, as deployed."""

from collections.abc import Callable, Sequence

from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.types import Request


def draw_texts(
    runner: Runner, requests: Sequence[Request], sampling: SamplingConfig, strategy: str | Strategy = "ar",
    rows: int = 16, told: Callable[[int], None] | None = None,
) -> list[list[int]]:  # fmt: skip
    """Return the tokens of each request, end tokens included, drawn under `sampling`, at most `rows` at a time.

    The tokens depend on a request, its `noise_key` and the seed alone: requests that are drawn twice should have two
    keys, or two seeds. Exact strategies change no token, only the time. `told` gets the number of requests that are
    done. Dropout is off while tokens are drawn.
    """
    chosen = parse_strategy(strategy) if isinstance(strategy, str) else strategy
    engine, row_sampling = runner.engine(min(rows, max(1, len(requests)))), RowSampling.of(sampling)
    modules = [runner.trunk, *runner.heads.values()]
    training = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        found: list[list[int]] = [[] for _ in requests]
        places, waiting, done = dict[int, int](), iter(range(len(requests))), 0
        following = next(waiting, None)
        while following is not None or engine.busy:
            while following is not None and engine.free:
                places[engine.join(requests[following], chosen, row_sampling)] = following
                following = next(waiting, None)
            for event in engine.step():
                if event.done:
                    found[places.pop(event.slot)] = engine.leave(event.slot)[0]
                    done += 1
            if told is not None:
                told(done)
        return found
    finally:
        for module, mode in zip(modules, training):
            module.train(mode)
