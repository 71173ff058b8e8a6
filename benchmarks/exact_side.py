"""One side of `exact.py`: a model that decodes sets of recordings, and tells how far apart two tokens are."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from checkout import Session
from sides import answer_all

import speechmtp
from speechmtp.data.kaldi import Utterance, read_data_dir
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.types import PreviousPass, Request

EARLIER = 2 / 3  # of a recording is what the earlier pass heard
ROWS = 16  # of the earlier pass


class Decoder:
    """A model, and what it has heard, by data directory, number and name."""

    def __init__(self, model: str) -> None:
        self.session = Session.load(model, device="cpu")
        self.recogniser = self.session.recogniser
        self._heard: dict[tuple[str, int], dict[str, Request]] = {}
        self._knowing: dict[tuple[str, int], dict[str, Request]] = {}

    def utterances(self, data: str, number: int) -> list[Utterance]:
        """So many utterances, evenly spaced; all for 0."""
        return spaced(read_data_dir(data).utterances, number)

    def heard(self, data: str, number: int) -> dict[str, Request]:
        """Requests by name, heard once."""
        if (data, number) not in self._heard:
            rate, listen = self.recogniser.rate, self.session.listen
            found = {one.id: listen(one.load(rate, False), one.id) for one in self.utterances(data, number)}
            self._heard[data, number] = found
        return self._heard[data, number]

    def knowing(self, data: str, number: int) -> dict[str, Request]:
        """The same with the tokens of an earlier pass, which heard the first part of each recording."""
        if (data, number) not in self._knowing:
            rate, listen, heard = self.recogniser.rate, self.session.listen, self.heard(data, number)
            early = []
            for one in self.utterances(data, number):
                samples = one.load(rate, False)
                early.append(listen(samples[: int(EARLIER * len(samples))], one.id))
            known = [tokens for tokens, _ in self.decode(early, "ar", ROWS)]
            pairs = zip(heard.items(), known)
            self._knowing[data, number] = {
                name: request.knowing(PreviousPass(tuple(tokens))) for (name, request), tokens in pairs
            }
        return self._knowing[data, number]

    def decode(self, requests: Sequence[Request], strategy: str, rows: int) -> list[tuple[list[int], str]]:
        """Tokens and texts, decoded so many rows at a time."""
        chosen = self.recogniser.runner.prepared(parse_strategy(strategy))
        found = []
        for at in range(0, len(requests), rows):
            results = self.recogniser.decode(requests[at : at + rows], chosen)
            found += [(list(result.tokens), result.text) for result in results]
        return found

    def cell(self, data: str, number: int, strategy: str, rows: int) -> dict[str, Any]:
        """Tokens and texts of a set by name."""
        previous = "previous" in parse_strategy(strategy).needs
        requests = self.knowing(data, number) if previous else self.heard(data, number)
        found = self.decode(list(requests.values()), strategy, rows)
        return {name: {"tokens": tokens, "text": text} for name, (tokens, text) in zip(requests, found)}

    @torch.inference_mode()
    def gap(self, request: Request, prefix: Sequence[int], first: int, second: int) -> float:
        """The logit of one token less that of another behind the tokens `prefix`."""
        trunk, prompt, device = self.recogniser.runner.trunk, request.prompt, request.prompt.embeddings.device
        cache = trunk.new_cache(0, slots=1)
        trunk.join(cache, prompt, None if prompt.memory is None else [prompt.memory.shape[1]])
        embedded = trunk.embed(torch.tensor([list(prefix)], dtype=torch.long, device=device))
        places = [request.first + prompt.output_positions.offset(i) for i in range(len(prefix))]
        positions = torch.tensor([places], dtype=torch.long, device=device)
        inputs = torch.cat([prompt.embeddings, embedded.to(prompt.embeddings.dtype)], 1)
        states = trunk.extend(inputs, torch.cat([prompt.positions, positions], 1), None, cache)
        logits = trunk.unembed(states.hidden[0, -1]).double()
        return float(logits[first] - logits[second])


def spaced(items: Sequence[Any], number: int) -> list[Any]:
    """So many of the items, evenly spaced; all for 0 or a number that is not smaller."""
    if not number or number >= len(items):
        return list(items)
    return [items[i * len(items) // number] for i in range(number)]


def serve(requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """To the first request what was loaded; then results of a set, or the gap of two tokens."""
    decoder = Decoder(next(requests)["model"])
    yield {"package": str(Path(speechmtp.__file__).parent.parent), "torch": torch.__version__}
    for asked in requests:
        data, number = asked["data"], asked["number"]
        if asked["do"] == "decode":
            yield {"results": decoder.cell(data, number, asked["strategy"], asked["rows"])}
        else:
            request = decoder.heard(data, number)[asked["name"]]
            yield {"gap": decoder.gap(request, asked["prefix"], asked["first"], asked["second"])}


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer_all(serve)
