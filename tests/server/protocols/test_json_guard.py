"""JSON of peers: objects that can be written again, or one clear refusal."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmtp.errors import ProtocolError
from speechmtp.server.protocols.json_guard import DEPTH, KEYS, LARGE, read_object, write_object

REFUSED = [
    "", "[]", "null", "1", '"a"', "true", "{", '{"a":1e999}', '{"a":-1e999}', '{"a":NaN}', '{"a":Infinity}',
    '{"a":' + "9" * 5000 + "}", '{"a":' + "9" * 20 + "}", "[" * 100_000, '{"a":' * 10_000 + "1" + "}" * 10_000,
    '{"a":' * (DEPTH + 1) + "1" + "}" * (DEPTH + 1), '{"a":"\\ud800"}', '{"\\udfff":1}', b"\xff\xfe", b'{"a":"\xff"}',
    json.dumps({str(k): k for k in range(KEYS + 1)}), json.dumps({"a": [1] * LARGE}), '{"a":' + "[],[" * LARGE,
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_other_json_is_refused_in_one_line(text: str | bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^message: [^\n]*$"):
        read_object(text)


def test_what_is_just_allowed() -> None:
    deep = '{"a":' * DEPTH + "1" + "}" * DEPTH
    assert write_object(read_object(deep)) == deep
    assert len(read_object(json.dumps({str(k): 1.5 for k in range(KEYS)}))) == KEYS
    assert read_object('{"a":"\\ud83d\\ude00","b":-9223372036854775808}') == {"a": "😀", "b": -(1 << 63)}
    assert read_object(b'{"eof" : 1}') == {"eof": 1}
    assert len(read_object(json.dumps({"audio": "A" * (1 << 20)}))["audio"]) == 1 << 20


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(st.text() | st.binary() | values.map(json.dumps))
@settings(deadline=None, max_examples=100)
def test_what_is_read_can_be_written(text: str | bytes) -> None:
    try:
        found = read_object(text)
    except ProtocolError:
        return
    assert read_object(write_object(found)) == found
    write_object(found).encode()
