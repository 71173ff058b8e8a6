"""What the HTTP side of the server stands on."""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from speechmtp.server.config import Limits
from speechmtp.server.guard import Guard
from speechmtp.server.http.pages import Page, read_pages
from speechmtp.server.metrics import Metrics
from speechmtp.server.protocols.contract import Offer
from speechmtp.server.protocols.rules import known_language, known_model
from speechmtp.server.transcribing import Transcribing

if TYPE_CHECKING:
    from speechmtp.server.http.connection import HttpConnection


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return prefix + secrets.token_hex(12)


@dataclass(eq=False)
class Site:
    """What handlers use.

    `models` gives the names of the models with the languages that each knows, the first being the default. `problem`
    says why no session could start now (empty: it could). `socket_paths` are those of websockets. `strict_models`
    refuses names of models that are not known. `started` is in seconds since 1970; `connections` are those that are
    open.
    """

    guard: Guard
    models: Callable[[], Mapping[str, Sequence[str]]]
    transcribing: Transcribing
    problem: Callable[[], str]
    metrics: Metrics
    limits: Limits
    socket_paths: Collection[str] = ()
    strict_models: bool = False
    pages: Mapping[str, Page] = field(default_factory=read_pages)
    ids: Callable[[str], str] = new_id
    started: float = field(default_factory=time.time)
    connections: "set[HttpConnection]" = field(default_factory=set)

    def __post_init__(self) -> None:
        """Count the losses of the transcriber."""
        self.transcribing.on_loss = lambda: self.metrics.count("transcriber_restarts_total")

    async def drain(self, seconds: float) -> None:
        """Take no further uploads, and wait that long for those that run. Other requests are still answered."""
        self.transcribing.refuse()
        deadline = time.monotonic() + seconds
        while self.transcribing.active and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        """Serve no further requests; those that run go on."""
        for connection in list(self.connections):
            connection.stop()

    def abort(self) -> None:
        """End all requests."""
        for connection in list(self.connections):
            connection.abort()

    def offer(self, path: str = "", query: Mapping[str, Sequence[str]] | None = None) -> Offer:
        """A request as protocols see it."""
        models = self.models()
        return Offer(path, query or {}, self.ids, list(models), models, now=time.time(), strict=self.strict_models)

    def model(self, name: str) -> str:
        """The model of a name. Refused for one that is not known, if the server is strict about it."""
        return known_model(name, self.offer())

    def language(self, code: str, model: str) -> str:
        """What a model is told of a language; empty where it knows only one. Refused for one that it does not know."""
        return known_language(code, model, self.offer())

    def own_language(self, model: str) -> str:
        """The language of a model that knows only one; empty where nothing tells."""
        known = self.models().get(model, ())
        return known[0] if len(known) == 1 else ""
