"""Run the passes of sessions: encode each window, decode several together."""

from collections.abc import Sequence

import numpy as np

from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.recognition import RecognitionModel
from speechmtp.streaming.session import Pass, Session
from speechmtp.types import PreviousPass, Request, Result

DEPTH = 3  # tokens that heads draft behind a wrong one of the pass before


def strategy_of(model: RecognitionModel, name: str) -> Strategy:
    """The strategy of a stream: the one named, or by default the pass before as a draft, with the heads if there are
    any. ConfigError for one that the model cannot run, or that cannot go on behind committed words."""
    if name:
        strategy = model.runner.prepared(parse_strategy(name))
        problem = _problem(model, strategy)
        if problem:
            raise ConfigError(f"strategy {strategy.name}: {problem}; choose another for a stream")
        return strategy
    if model.heads is None:
        return parse_strategy("previous")
    return model.runner.prepared(parse_strategy(f"previous-heads:depth={min(DEPTH, model.heads.depth)}"))


def _problem(model: RecognitionModel, strategy: Strategy) -> str:
    """Why a strategy cannot decode a stream; empty if it can."""
    if strategy.drafter is None:
        return "says all words anew, and cannot go on behind those that are committed"
    if "model" in strategy.needs:
        return "drafts with another model, which does not know the words that are committed"
    if "reference" in strategy.needs:
        return "drafts a text that is known before"
    if "ctc" in strategy.needs and not model.has_ctc:
        return "needs a CTC head, and the model has none"
    return ""


def request_of(model: RecognitionModel, session: Session, due: Pass) -> Request:
    """The request of a pass."""
    request = model.listen(due.samples, "stream", session.language, session.task, due.prefix)
    return request.knowing(PreviousPass(due.previous)) if due.previous else request


def decode_passes(
    model: RecognitionModel, strategies: Strategy | Sequence[Strategy], due: Sequence[tuple[Session, Pass]]
) -> list[tuple[Request, Result]]:
    """Decode the passes of several sessions in one batch, all by one strategy or each by its own."""
    requests = [request_of(model, session, one) for session, one in due]
    return list(zip(requests, model.decode(requests, strategies, recorded=Recorded(logprobs=True))))


def decode_window(
    model: RecognitionModel, strategy: Strategy, samples: np.ndarray, language: str = "",
    prefix: Sequence[int] = (), previous: Sequence[int] = (),
) -> list[int]:  # fmt: skip
    """The tokens behind `prefix` in samples [n], as a pass decodes them whose pass before emitted `previous` there."""
    request = model.listen(samples, "stream", language, "", prefix)
    request = request.knowing(PreviousPass(tuple(previous))) if previous else request
    [result] = model.decode([request], strategy, recorded=Recorded(logprobs=True))
    return [token for token in result.tokens if token not in request.rules.eos]


def run_passes(model: RecognitionModel, strategy: Strategy, due: Sequence[tuple[Session, Pass]]) -> None:
    """Decode the passes of several sessions in one batch, and let the sessions take the results."""
    for (session, one), (request, result) in zip(due, decode_passes(model, strategy, due)):
        session.take(one, request, result)
