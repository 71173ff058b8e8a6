"""What a handler gets and gives: a request, whose body arrives while it runs, and a reply."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from speechmtp.server.protocols.contract import Refused

Headers = Sequence[tuple[str, str]]

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
RETRY_AFTER = 5  # seconds


class Body(Protocol):
    """The body of a request as it arrives."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Its pieces. Refused for one that is too long, too slow or broken."""


@dataclass(frozen=True)
class Request:
    """A request. `path` is decoded, without the query; `query` has every value of a name; names of headers are in lower
    case. `length` is that of the body, if the client tells it."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Headers
    address: str
    body: Body
    length: int | None = None

    def header(self, name: str, default: str = "") -> str:
        """The first header of this name, in lower case."""
        return next((value for key, value in self.headers if key == name), default)


class Owned:
    """Pieces of a reply, and what is let go with them, whether or not they were ever asked for."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], held: AsyncExitStack) -> None:
        self._pieces, self._held = pieces, held

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """No more is asked for."""
        try:
            await self._pieces.aclose()
        finally:
            await self._held.aclose()


@dataclass(frozen=True)
class Reply:
    """A reply: bytes, or pieces that are sent as they come."""

    status: int
    headers: Headers = ()
    body: bytes | Owned = b""

    async def aclose(self) -> None:
        """Let go what the reply holds."""
        if isinstance(self.body, Owned):
            await self.body.aclose()


def json_reply(value: Any, status: int = 200, headers: Headers = ()) -> Reply:
    """A reply of JSON."""
    return Reply(status, [("content-type", "application/json"), *headers], written(value))


def written(value: Any) -> bytes:
    """JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def error_of(refused: Refused) -> dict[str, Any]:
    """What a client is told, as OpenAI's clients read it."""
    kind = _TYPES.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    return {"error": {"message": refused.message, "type": kind, "code": refused.code, "param": refused.param}}


def refusal_headers(refused: Refused) -> list[tuple[str, str]]:
    """The headers that belong to a refusal's status."""
    headers = []
    if refused.status == 401:
        headers.append(("www-authenticate", "Bearer"))
    if refused.status == 503:
        headers.append(("retry-after", str(RETRY_AFTER)))
    return headers


def refusal(refused: Refused) -> Reply:
    """The reply to a request that cannot be served."""
    return json_reply(error_of(refused), refused.status, refusal_headers(refused))
