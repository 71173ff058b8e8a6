"""Tokens by every carrier, origins, hosts and counts; nothing here has a socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmtp.errors import ConfigError
from speechmtp.server.config import Limits
from speechmtp.server.guard import Guard, Headers, Passed
from speechmtp.server.protocols.contract import Refused

KEY = "sk-right"
LIMITS = Limits(connections=6, connections_address=3, connections_token=2, failures=3)
HOST = ("Host", "localhost:8765")
WRONG = ("xi-api-key", "sk-wrong")
OPEN = Guard((), (), True, LIMITS)


def guard(loopback: bool = True, origins: tuple[str, ...] = ()) -> Guard:
    return Guard([KEY, "other"], origins, loopback, LIMITS)


def status(one: Guard, *headers: tuple[str, str], query: str = "", now: float = 0.0, address: str = "10.0.0.1") -> int:
    """The status of a refusal; 200 for a request that passes."""
    asked = {"token": [query]} if query else {}
    try:
        one.check([HOST, *headers], asked, address, now)
    except Refused as refused:
        return refused.status
    return 200


CARRIERS: list[tuple[Headers, str]] = [
    ([("Authorization", "Bearer {}")], ""),
    ([("authorization", "bearer   {}")], ""),
    ([("Authorization", "Token {}")], ""),
    ([("xi-api-key", "{}")], ""),
    ([("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.{}")], ""),
    ([("Sec-WebSocket-Protocol", "realtime"), ("Sec-WebSocket-Protocol", "openai-insecure-api-key.{}")], ""),
    ([("Sec-WebSocket-Protocol", "token, {}")], ""),
    ([("Sec-WebSocket-Protocol", "bearer, {}")], ""),
    ([], "{}"),
]


@pytest.mark.parametrize(("headers", "query"), CARRIERS)
def test_every_carrier_of_a_token(headers: Headers, query: str) -> None:
    for key, expected in ((KEY, 200), ("other", 200), ("sk-wrong", 401), (KEY[:-1], 401), (KEY + "x", 401)):
        filled = [(name, value.format(key)) for name, value in headers]
        assert status(guard(), *filled, query=query.format(key)) == expected, key


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", f"Basic {KEY}", KEY, "Bearer " + "x" * 10240, "Bearer ключ",
                                   "Bearer \udcff\xe9", "Bearer sk-right\x00"])  # fmt: skip
def test_wrong_tokens_get_the_same_answer(value: str) -> None:
    with pytest.raises(Refused) as missing:
        guard().check([HOST], {}, "10.0.0.1", 0.0)
    with pytest.raises(Refused) as wrong:
        guard().check([HOST, ("Authorization", value)], {}, "10.0.0.1", 0.0)
    assert wrong.value == missing.value and wrong.value.status == 401


def test_a_token_alone_as_subprotocol_is_none() -> None:
    assert status(guard(), ("Sec-WebSocket-Protocol", KEY)) == 401


def test_a_token_in_the_query_only_where_the_server_is_local() -> None:
    assert status(guard(loopback=True), query=KEY) == 200
    assert status(guard(loopback=False), query=KEY) == 401


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (f"realtime, openai-insecure-api-key.{KEY}, openai-beta.realtime-v1", "realtime"),
        (f"openai-insecure-api-key.{KEY}, realtime", "realtime"),
        (f"token, {KEY}", "token"), (f"bearer, {KEY}", "bearer"), (f"openai-insecure-api-key.{KEY}", None),
    ],
)  # fmt: skip
def test_the_selected_subprotocol_is_never_the_token(offered: str, selected: str | None) -> None:
    for one in (guard(), OPEN):
        passed = one.check([HOST, ("Sec-WebSocket-Protocol", offered)], {}, "10.0.0.1", 0.0)
        assert passed.subprotocol == selected
        assert passed.token is None or (KEY not in passed.token and len(passed.token) == 16)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8765", 200), ("HTTP://LOCALHOST:8765", 200), ("https://friend.example", 200),
        ("http://localhost", 403), ("http://localhost:1", 403), ("null", 403), ("", 403), ("https://evil.example", 403),
        ("https://friend.example.evil", 403), ("file://", 403), ("http://localhost:8765@evil.example", 403),
        ("http://localhost:8765/x", 403), ("http://localhost:99999999", 403), ("chrome-extension://abc", 403),
    ],
)  # fmt: skip
def test_origins(origin: str, expected: int) -> None:
    one = Guard((), ["https://Friend.example"], True, LIMITS)
    assert status(one, ("Origin", origin)) == expected
    assert status(one) == 200


@pytest.mark.parametrize(
    ("host", "local", "others"),
    [
        ("localhost", 200, 200), ("127.0.0.1:9", 200, 200), ("[::1]:8765", 200, 200), ("LocalHost.", 200, 200),
        ("evil.example", 403, 200), ("localhost.evil.example", 403, 200), ("", 400, 400), ("a b", 400, 400),
        ("localhost/x", 400, 400), ("localhost:x", 400, 400),
    ],
)  # fmt: skip
def test_hosts(host: str, local: int, others: int) -> None:
    for loopback, expected in ((True, local), (False, others)):
        try:
            Guard((), (), loopback, LIMITS).check([("Host", host)], {}, "10.0.0.1", 0.0)
            found = 200
        except Refused as refused:
            found = refused.status
        assert found == expected


def test_the_host_of_a_listed_page_is_one_of_the_server() -> None:
    one = Guard((), ["https://voice.example"], True, LIMITS)
    for host, origin in (("voice.example", "https://voice.example"), ("localhost", "https://voice.example")):
        assert one.check([("Host", host), ("Origin", origin)], {}, "10.0.0.1", 0.0) == Passed()


def test_two_hosts_are_none() -> None:
    with pytest.raises(Refused, match="one name"):
        OPEN.check([HOST, ("host", "localhost")], {}, "10.0.0.1", 0.0)


def test_failures_of_an_address_end_after_a_minute() -> None:
    one, right = guard(), ("Authorization", f"Bearer {KEY}")
    assert [status(one, now=float(second)) for second in range(9)] == 9 * [401], "none is no wrong one"
    assert [status(one, WRONG, now=float(second)) for second in range(4)] == [401, 401, 401, 503]
    assert status(one, right, now=4.0) == 503, "the right one is not told apart, so that guessing gains nothing"
    assert status(one, right, now=4.0, address="10.0.0.2") == 200
    assert status(one, right, now=60.5) == 200
    assert status(one, right, now=120.0) == 200


def test_a_network_of_ipv6_is_one_address() -> None:
    one = guard()
    assert [status(one, WRONG, address=f"2001:db8::{k}") for k in range(4)] == [401, 401, 401, 503]
    assert status(one, WRONG, address="2001:db8:0:1::1") == 401
    assert [status(one, WRONG, address=a) for a in ("::ffff:10.0.0.9", "10.0.0.9", "::ffff:10.0.0.9", "10.0.0.9")][
        -1
    ] == 503


def test_failures_are_remembered_of_so_many_addresses_only() -> None:
    one = guard()
    for number in range(5000):
        status(one, WRONG, address=f"10.1.{number // 256}.{number % 256}")
    assert len(one._failures) == 4096


def test_free_requests_need_no_token_but_the_right_origin() -> None:
    assert guard().check([HOST], {}, "10.0.0.1", 0.0, free=True) == Passed()
    with pytest.raises(Refused):
        guard().check([HOST, ("Origin", "null")], {}, "10.0.0.1", 0.0, free=True)


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=40))
def test_connections_are_counted(addresses: list[str]) -> None:
    one, held = Guard((), (), True, LIMITS), list[str]()
    for address in addresses:
        may = len(held) < 6 and held.count(address) < 3
        if may:
            one.connect(address)
            held.append(address)
            continue
        with pytest.raises(Refused) as refused:
            one.connect(address)
        assert refused.value.status == 503
        one.disconnect(held.pop(0))
    for address in held:
        one.disconnect(address)
    assert one.counted == (0, 0) and not one._addresses


def test_requests_of_a_token_are_counted() -> None:
    one = guard()
    passed = one.check([HOST, ("xi-api-key", KEY)], {}, "10.0.0.1", 0.0)
    other = one.check([HOST, ("xi-api-key", "other")], {}, "10.0.0.1", 0.0)
    one.enter(passed), one.enter(passed), one.enter(other)
    with pytest.raises(Refused) as refused:
        one.enter(passed)
    assert refused.value.status == 503
    one.leave(passed)
    one.enter(passed)
    assert one.counted == (0, 3)


@pytest.mark.parametrize("token", ["", "a b", "a,b", "schlüssel", "a\n"])
def test_tokens_that_no_header_carries(token: str) -> None:
    with pytest.raises(ConfigError, match="--token"):
        Guard([token], (), True, LIMITS)
