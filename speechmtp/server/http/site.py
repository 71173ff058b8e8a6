"""What the HTTP side of the server stands on."""

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from speechmtp.server.admission import Room, choose
from speechmtp.server.config import ServerConfig
from speechmtp.server.guard import Guard
from speechmtp.server.http.pages import Page, read_pages
from speechmtp.server.metrics import Metrics
from speechmtp.server.protocols.contract import Offer
from speechmtp.server.protocols.rules import known_language, known_model
from speechmtp.server.transcribing import Transcribing, transcriber_command

if TYPE_CHECKING:
    from speechmtp.server.http.connection import HttpConnection


class HasRoom(Protocol):
    """An engine, as far as HTTP looks at it."""

    @property
    def room(self) -> Room:
        """What admission looks at."""


class Engines(Protocol):
    """The engines: `Pool` is one."""

    @property
    def engines(self) -> Sequence[HasRoom]:
        """All of them."""


class Sockets(Protocol):
    """The websockets, as far as HTTP looks at them: `Door` is one."""

    stopping: bool

    @property
    def paths(self) -> Sequence[str]:
        """The paths on which websockets are served."""


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return prefix + secrets.token_hex(12)


class Site:
    """What handlers use. `connections` are those that are open, `started` is in seconds since 1970."""

    def __init__(
        self, config: ServerConfig, guard: Guard, metrics: Metrics, pool: Engines, door: Sockets,
        transcribing: Transcribing | None = None, pages: Mapping[str, Page] | None = None,
        ids: Callable[[str], str] = new_id,
    ) -> None:  # fmt: skip
        """`transcribing` and `pages` are made of the configuration and the package where they are not given."""
        self.config, self.limits, self.guard, self.metrics, self.ids = config, config.limits, guard, metrics, ids
        self.pages = read_pages() if pages is None else pages
        self.connections: set[HttpConnection] = set()
        self.started = time.time()
        self._pool, self._door = pool, door
        self.transcribing = transcribing or Transcribing(
            transcriber_command(config), config.limits.uploads, lambda: metrics.count("transcriber_restarts_total")
        )

    async def close(self) -> None:
        """End all requests and the transcriber. It may be called again."""
        for connection in list(self.connections):
            connection.abort()
        await self.transcribing.stop()

    def stop(self) -> None:
        """Serve no further requests; those that run go on."""
        for connection in list(self.connections):
            connection.stop()

    @property
    def socket_paths(self) -> Sequence[str]:
        """The paths on which websockets are served."""
        return self._door.paths

    @property
    def _rooms(self) -> list[Room]:
        return [engine.room for engine in self._pool.engines]

    @property
    def models(self) -> Sequence[str]:
        """The names of the models, the first being the default."""
        return [name for name, _ in self.config.models]

    def offer(self, path: str = "", query: Mapping[str, Sequence[str]] | None = None) -> Offer:
        """A request as protocols see it."""
        known: Mapping[str, Sequence[str]] = next(
            (room.readiness.models for room in self._rooms if room.readiness is not None), {}
        )
        return Offer(
            path, query or {}, self.ids, self.models, known, now=time.time(), strict=self.config.strict_models
        )

    def model(self, name: str) -> str:
        """The model of a name. Refused for one that is not known, if the server is strict about it."""
        return known_model(name, self.offer())

    def language(self, code: str, model: str) -> str:
        """What a model is told of a language; empty where it knows only one. Refused for one that it does not know."""
        return known_language(code, model, self.offer())

    def own_language(self, model: str) -> str:
        """The language of a model that knows only one; empty where nothing tells."""
        known = self.offer().languages.get(model, ())
        return known[0] if len(known) == 1 else ""

    def problem(self) -> str:
        """Why no session could start now; empty if one could."""
        if self._door.stopping:
            return "the server stops"
        rooms = self._rooms
        if all(room.readiness is None for room in rooms):
            return "no engine is up"
        full = choose(rooms, self.config.crowded_step, self.config.share, self.config.sessions) is None
        return "the server is full" if full else ""

    def measure(self) -> None:
        """Set the metrics that are looked up when they are asked for."""
        loads = [room.load for room in self._rooms]
        self.metrics.set("engine_load_ratio", max((load.load for load in loads), default=0.0))
        level = 2 if self.problem() else 1 if any(load.crowded for load in loads) else 0
        self.metrics.set("load_level", level)
        self.metrics.set("uploads_active", self.transcribing.active)
        self.metrics.passes(sum(load.passes for load in loads), sum(load.seconds for load in loads))
        with contextlib.suppress(ValueError):
            self.metrics.set("connections", self.guard.counted[0])
