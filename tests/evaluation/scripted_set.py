"""An evaluation set whose outputs, counts and seconds are written down: all figures of a comparison are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tiny
import torch

from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import Strategy
from speechmtp.evaluation.evaluation_sets import EvaluationSet
from speechmtp.types import Request, Result, Trace

WARM_UP = 1000.0  # seconds of the first call of every row, which must not count


def result(tokens: Sequence[int], calls: int = 0, text: str = "", **counts: Any) -> Result:
    """An output with its counts; without text, the text is that of the tokens."""
    trace = Trace(calls=calls, emitted=len(tokens), **({"finished": True} | counts))
    return Result(text or " ".join(map(str, tokens)), tuple(tokens), trace)


@dataclass(frozen=True)
class Call:
    """A call of `decode`."""

    label: str
    names: tuple[str, ...]
    references: bool
    recorded: Recorded | None


@dataclass
class Script:
    """The `outputs` of every row by its label and the utterance, and the `seconds` of its batches (all 1 if none are
    given). `ar` also says what the reference is."""

    outputs: Mapping[str, Mapping[str, Result]]
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)


class ScriptedSet(EvaluationSet):
    """Decodes by a script. Batches go by the sizes of prompts, in order of the names or, if `backwards`, against it."""

    def __init__(
        self, script: Script, words: int | None = None, dtype: torch.dtype = torch.float32, backwards: bool = False,
        **more: Any,
    ) -> None:  # fmt: skip
        trunk = tiny.trunk()
        names = sorted(script.outputs["ar"], reverse=backwards)
        requests = {name: Request(tiny.prompts(trunk, [size + 1]), tiny.RULES, 9) for size, name in enumerate(names)}
        super().__init__(Runner(trunk, {}), requests, str, torch.device("cpu"), dtype, **more)
        self.script, self.words = script, words
        self.given = {label: iter([WARM_UP, *seconds]) for label, seconds in script.seconds.items()}

    def judge(self, results: Mapping[str, Result], seed: int) -> dict[str, Any]:
        """No scores, and the number of words that was given."""
        return super().judge(results, seed) | {"words": self.words}

    def decode(
        self, names: Sequence[str], strategy: Strategy, references: Mapping[str, Result] | None = None,
        sampling: SamplingConfig | None = None, recorded: Recorded | None = None,
    ) -> list[Result]:  # fmt: skip
        """What the script says, with the seconds of the row's next batch."""
        self.script.calls.append(Call(strategy.label, tuple(names), references is not None, recorded))
        timed = recorded is not None and recorded.times and not recorded.overlap
        seconds = next(self.given[strategy.label]) if timed and strategy.label in self.given else 1.0
        return [replace(self.script.outputs[strategy.label][name], seconds=seconds) for name in names]
