"""One recogniser for scripts that run on this checkout and on older ones: what differs between them stands here alone.

Run as a program it serves a process that compares checkouts: a JSON object a line on standard input, `load`, `listen`
and `decode`, and an answer a line on standard output.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import speechmtp


@dataclass
class Session:
    """A loaded model that hears and decodes."""

    recogniser: Any

    @classmethod
    def load(cls, model: str, heads: Sequence[str] = (), ctc: str = "", draft_model: str = "") -> "Session":
        """By name or folder, as `speechmtp.load` has it."""
        return cls(speechmtp.load(model, heads=heads, ctc=ctc, draft_model=draft_model))

    @property
    def new(self) -> bool:
        """Whether requests are `types.Request`; before there was `api.Heard`."""
        return hasattr(self.recogniser, "listen")

    def listen(self, samples: np.ndarray, name: str) -> Any:
        """What a strategy is asked to decode."""
        return self.recogniser.listen(samples, name) if self.new else self.recogniser.hear(samples, name)

    def decode(self, requests: Sequence[Any], strategy: Any, references: Sequence[Sequence[int]]) -> Sequence[Any]:
        """The results of a batch; `references` are tokens of plain decoding, for strategies that know them."""
        if not self.new:
            return self.recogniser.decode(requests, strategy, references)
        from speechmtp.types import Reference

        known = [request.knowing(Reference(tuple(tokens))) for request, tokens in zip(requests, references)]
        return self.recogniser.decode(known, strategy)

    def strategies(self, listed: str) -> dict[str, Any]:
        """Strategies by what a list calls them, or for an empty list every exact one that the model can run, by label;
        `ar`, the reference, always among them."""
        from speechmtp.decoding.strategies import parse_strategy, split_strategies

        runner = self.recogniser.runner
        if listed:
            found = {part: runner.prepared(parse_strategy(part)) for part in split_strategies(listed)}
        else:
            found = {s.label: s for s in runner.usable(self.recogniser.has_ctc) if s.exact}
        return {"ar": parse_strategy("ar")} | found


def serve(requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Answers: to `load` the rows and utterances there are, to `listen` times, to `decode` (of what was heard last) the
    result. `ar` decodes everything once when it is heard: the reference, and to warm up."""
    first = next(requests)
    session = Session.load(first["model"], first["heads"], first["ctc"], first["draft_model"])
    strategies = session.strategies(first["strategies"])
    from speechmtp.data.kaldi import read_data_dir

    data = read_data_dir(first["data"], first["root"] or None)
    utterances = {each.id: each for each in data.utterances[: first["limit"] or None]}
    yield {"rows": list(strategies), "names": list(utterances), "package": str(Path(speechmtp.__file__).parent.parent),
           "torch": torch.__version__}  # fmt: skip
    request, reference = None, ()
    for asked in requests:
        if asked["do"] == "listen":
            name = asked["name"]
            request = session.listen(utterances[name].load(session.recogniser.rate, False), name)
            reference = session.decode([request], strategies["ar"], [()])[0].tokens
            seconds = request.listen_seconds if session.new else request.seconds
            yield {"audio_seconds": request.audio_seconds, "listen_seconds": seconds}
        else:
            result = session.decode([request], strategies[asked["row"]], [reference])[0]
            trace = asdict(result.trace)
            trace.pop("gaps")
            yield {"text": result.text, "tokens": list(result.tokens), "seconds": result.seconds, "trace": trace}


def main() -> None:
    """One thread; the answers alone go to standard output."""
    torch.set_num_threads(1)
    out, sys.stdout = sys.stdout, sys.stderr
    for answer in serve(json.loads(line) for line in sys.stdin):
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
