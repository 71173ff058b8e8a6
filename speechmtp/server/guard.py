"""Who may ask: tokens, origins, hosts, and how many connections. It has no socket and no clock."""

import hashlib
import hmac
import ipaddress
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from speechmtp.errors import ConfigError
from speechmtp.server.config import Limits
from speechmtp.server.protocols.contract import Refused

Headers = Sequence[tuple[str, str]]

MINUTE = 60.0
_ADDRESSES = 4096  # whose failures are remembered
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SCHEMES = ("bearer", "token")
_KEY_PREFIX = "openai-insecure-api-key."


@dataclass(frozen=True)
class Passed:
    """A request that may be served: a name of its token that says nothing about it (None: no token is needed), and the
    subprotocol that a websocket selects, which is never the token."""

    token: str | None = None
    subprotocol: str | None = None


class Guard:
    """Checks requests, and counts connections.

    `tokens` are those that are accepted; without any, no request needs one. `loopback` says that the server is bound to
    this machine only: then requests must name it as their host, against pages that let their own name point here, and a
    token may stand in the query. `origins` are pages' origins that are allowed besides the server's own, and with them
    their hosts, for a proxy on this machine. ConfigError for tokens that no header can carry.
    """

    def __init__(self, tokens: Sequence[str], origins: Sequence[str], loopback: bool, limits: Limits) -> None:
        for number, token in enumerate(tokens, 1):
            if not token or not token.isascii() or not token.isprintable() or " " in token or "," in token:
                raise ConfigError(
                    f"--token: number {number} of {len(tokens)} is empty or has blanks, commas or letters beyond "
                    "ASCII, expected letters and digits; choose another"
                )
        self._digests = [_digest(token) for token in tokens]
        self._origins = {_origin(origin) or origin for origin in origins}
        self._hosts = {*_LOOPBACK, *(host[0] for origin in self._origins if (host := _authority_of(origin)))}
        self._loopback, self._limits = loopback, limits
        self._failures: dict[str, deque[float]] = {}
        self._all = 0
        self._addresses, self._tokens = Counter[str](), Counter[str]()

    @property
    def needs_token(self) -> bool:
        """Whether requests need a token."""
        return bool(self._digests)

    # Connections

    def connect(self, address: str) -> None:
        """Count a connection; Refused if there are too many, and then it is not counted."""
        place = _network(address)
        if self._all >= self._limits.connections or self._addresses[place] >= self._limits.connections_address:
            raise Refused(503, "too_many_connections", "too many connections; close some, or try again later")
        self._all += 1
        self._addresses[place] += 1

    def disconnect(self, address: str) -> None:
        """A counted connection is gone."""
        self._all -= 1
        _less(self._addresses, _network(address))

    def enter(self, passed: Passed) -> None:
        """Count a request or a websocket of a token; Refused if it has too many, and then it is not counted."""
        if passed.token is None:
            return
        if self._tokens[passed.token] >= self._limits.connections_token:
            raise Refused(503, "too_many_connections", "too many connections of this token; close some first")
        self._tokens[passed.token] += 1

    def leave(self, passed: Passed) -> None:
        """What was counted by `enter` is done."""
        if passed.token is not None:
            _less(self._tokens, passed.token)

    @property
    def counted(self) -> tuple[int, int]:
        """Connections, and requests of tokens, that are open."""
        return self._all, self._tokens.total()

    # Requests

    def check(
        self, headers: Headers, query: Mapping[str, Sequence[str]], address: str, now: float, free: bool = False,
        subprotocols: Sequence[str] = ("realtime",),
    ) -> Passed:  # fmt: skip
        """Whether a request may be served. Refused: 403 for a page of another origin or another host name, 401 without
        a right token, 503 for an address that sent too many wrong ones.

        `headers` are pairs of name and value, `now` is in seconds. `free` requests need no token. `subprotocols` are
        those that are selected if the client offers them.
        """
        self._check_origin(headers)
        offered = [part.strip() for value in _values(headers, "sec-websocket-protocol") for part in value.split(",")]
        selected = next((name for name in offered if name in subprotocols), None)
        if selected is None and len(offered) == 2 and offered[0].lower() in _SCHEMES:
            selected = offered[0]
        if free or not self._digests:
            return Passed(None, selected)
        return Passed(self._token(headers, offered, query, address, now), selected)

    def _token(
        self, headers: Headers, offered: Sequence[str], query: Mapping[str, Sequence[str]], address: str, now: float
    ) -> str:
        """The name of the token that a request has."""
        place = _network(address)
        failures = self._failures.get(place, deque())
        while failures and failures[0] <= now - MINUTE:
            failures.popleft()
        if len(failures) >= self._limits.failures:
            raise Refused(503, "too_many_failures", "too many wrong tokens from this address; wait a minute")
        given = list(self._given(headers, offered, query))
        for one in given:
            found = _digest(one)
            # All are compared, so that the time tells nothing.
            if sum([hmac.compare_digest(found, known) for known in self._digests]):
                return hashlib.sha256(found).hexdigest()[:16]
        if given:
            failures.append(now)
            if place not in self._failures and len(self._failures) >= _ADDRESSES:
                del self._failures[next(iter(self._failures))]
            self._failures[place] = failures
        raise Refused(401, "invalid_api_key", "no valid token; give one as `Authorization: Bearer TOKEN`")

    def _given(self, headers: Headers, offered: Sequence[str], query: Mapping[str, Sequence[str]]) -> Iterator[str]:
        """The tokens that a request has, by every way in which clients send them."""
        for value in _values(headers, "authorization"):
            scheme, _, token = value.strip().partition(" ")
            if scheme.lower() in _SCHEMES:
                yield token.strip()
        yield from _values(headers, "xi-api-key")
        for one in offered:
            if one.startswith(_KEY_PREFIX):
                yield one.removeprefix(_KEY_PREFIX)
        if len(offered) == 2 and offered[0].lower() in _SCHEMES:
            yield offered[1]
        if self._loopback:
            yield from query.get("token", ())

    def _check_origin(self, headers: Headers) -> None:
        """Refused for a page of another origin, and for another host name on a loopback bind."""
        hosts = _values(headers, "host")
        host = _authority(hosts[0]) if len(hosts) == 1 else None
        if host is None and hosts:
            raise Refused(400, "bad_host", "Host: expected one name, with a port or without; send one")
        if self._loopback and host is not None and host[0] not in self._hosts:
            raise Refused(
                403, "foreign_host", "Host: expected localhost, since the server is bound to it; ask for that"
            )
        for value in _values(headers, "origin"):
            origin = _origin(value)
            if origin is None or (origin not in self._origins and (host is None or _authority_of(origin) != host)):
                raise Refused(403, "foreign_origin", "Origin: a page of another site, expected one of this server; "
                              "allow it with --origin")  # fmt: skip


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _values(headers: Headers, name: str) -> list[str]:
    return [value for key, value in headers if key.lower() == name]


def _less(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


def _network(address: str) -> str:
    """What counts as one address: of IPv6 a /64, which one peer has for itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 6 and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found) if found.version == 4 else str(ipaddress.ip_network((int(found), 64), strict=False))


def _authority(text: str) -> tuple[str, int | None] | None:
    """Host in lower case and port of `host:port`; None for what is none."""
    if len(text.split()) != 1:
        return None
    try:
        parts = urlsplit(f"//{text.strip()}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.hostname.lower().rstrip("."), port


def _origin(text: str) -> str | None:
    """An origin as `scheme://host:port` in lower case; None for `null` and what is none."""
    scheme, separator, rest = text.strip().lower().partition("://")
    if not separator or scheme not in ("http", "https") or _authority(rest) is None:
        return None
    return f"{scheme}://{rest}"


def _authority_of(origin: str) -> tuple[str, int | None] | None:
    return _authority(origin.partition("://")[2])
