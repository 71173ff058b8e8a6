"""What a protocol of the server is: it has no socket, clock or task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from speechmtp.server.messages import Action, CoreEvent

# Why the server ends a session: it was idle, or too long; the client sent what it may not, or read too slowly; the
# server stops; it is full; audio came faster than it can be transcribed.
EndReason = Literal["idle", "too_long", "policy", "slow", "stopping", "full", "too_fast"]


@dataclass(unsafe_hash=True)  # not frozen: context managers write the traceback of what passes through them
class Refused(Exception):
    """A request that cannot be served: an HTTP status, a short code in lower case with underscores, a line that says
    what is wrong and what to do, and the parameter that it is about."""

    status: int
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class Offer:
    """A request for a websocket: what the client asks for. `query` has every value of a name; `ids` makes new ids with
    a prefix, such as `item_`; `models` are the names that the server knows, the first being the default, and
    `languages` the codes that each model knows; `now` is in seconds since 1970; `strict` refuses unknown model names,
    which are otherwise names for the default."""

    path: str
    query: Mapping[str, Sequence[str]]
    ids: Callable[[str], str]
    models: Sequence[str]
    languages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    subprotocols: Sequence[str] = ()
    now: float = 0.0
    strict: bool = False


class Adapter(Protocol):
    """One client's session in one protocol. Each call returns what to do, in order; `now` is in seconds of any clock
    that does not run backwards."""

    wake: float | None  # when `on_timer` is to be called; None: never

    def start(self, now: float) -> Sequence[Action]:
        """The connection is open."""

    def on_client(self, message: str | bytes, now: float) -> Sequence[Action]:
        """A message came."""

    def on_core(self, event: CoreEvent, now: float) -> Sequence[Action]:
        """The recogniser says something."""

    def on_timer(self, now: float) -> Sequence[Action]:
        """`wake` has come."""

    def on_end(self, reason: EndReason, message: str, now: float) -> Sequence[Action]:
        """The server ends the session: what the client is told, the last of it a Close. Where it can, it flushes before
        and closes when that is answered."""


@dataclass(frozen=True)
class SocketProtocol:
    """A protocol over websockets: its name, its paths, how a session starts (Refused for a request that cannot be
    served, before the connection is upgraded), and how a refusal is written: status, headers and body."""

    name: str
    paths: Sequence[str]
    open: Callable[[Offer], Adapter]
    refuse: Callable[[Refused, Callable[[str], str]], tuple[int, Mapping[str, str], bytes]]
    subprotocols: Sequence[str] = ()  # that it selects, if the client offers one
