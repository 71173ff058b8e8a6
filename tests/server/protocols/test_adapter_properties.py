"""What holds of every exchange, however a client and a late recogniser come to speak."""

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from exchanges import opened
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_recogniser import PAUSE, SILENCE, SlowRecogniser

from speechmtp.server.messages import Action, Close, CoreEvent, Failed, Heard, Send
from speechmtp.server.protocols.contract import Adapter, EndReason
from speechmtp.server.protocols.rules import CODES, FAILURES

VAD = {"type": "session.update", "session": {"include": ["speechmtp.tail", "speechmtp.final"], "audio": {
    "input": {"turn_detection": {"type": "server_vad"}}}}}  # fmt: skip
OPERATIONS = st.lists(
    st.sampled_from(["word", "word", "word", "silence", "pause", "commit", "clear", "core", "core", "core"]),
    max_size=60,
)


class Exchange:
    """An adapter between a client and a recogniser, neither of which has a socket."""

    def __init__(self, target: str) -> None:
        self.adapter: Adapter = opened(target)
        self.core = SlowRecogniser()
        self.now = 0.0
        self.sent: list[dict[str, Any]] = []
        self.closed: Close | None = None
        self._apply(self.adapter.start(0.0))

    def client(self, message: dict[str, Any] | bytes) -> None:
        """The client sends."""
        self._apply(self.adapter.on_client(message if isinstance(message, bytes) else json.dumps(message), self.now))

    def append(self, value: int, samples: int = 24) -> None:
        """The client appends a piece of audio to an OpenAI session."""
        audio = base64.b64encode(np.full(samples, value, "<i2").tobytes()).decode()
        self.client({"type": "input_audio_buffer.append", "audio": audio})

    def step(self) -> None:
        """The recogniser does one more thing."""
        for event in self.core.step():
            self._apply(self.adapter.on_core(event, self.now))

    def hear(self, event: CoreEvent) -> None:
        """The recogniser says something else."""
        self._apply(self.adapter.on_core(event, self.now))

    def end(self, reason: EndReason = "too_long") -> None:
        """The server ends the session, and the recogniser catches up."""
        self._apply(self.adapter.on_end(reason, "over", self.now))
        while self.core.waiting and self.closed is None:
            self.step()

    def _apply(self, actions: Any) -> None:
        for action in actions:
            assert self.closed is None, action
            if isinstance(action, Send):
                self.sent.append(json.loads(action.message))
            elif isinstance(action, Close):
                self.closed = action
            else:
                self.core.take(action)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The messages of a type, or whose type ends so."""
        return [one for one in self.sent if str(one.get("type")).endswith(kind)]


def spoken(exchange: Exchange, operations: list[str]) -> tuple[list[int], list[int]]:
    """Do the operations; return how many pieces each commit ended, and the pieces that a clear may have taken."""
    commits, cleared, pieces, begin = list[int](), list[int](), 0, 0
    for name in operations:
        if name in ("word", "silence", "pause"):
            exchange.append({"word": 1, "silence": SILENCE, "pause": PAUSE}[name])
            pieces += 1
        elif name == "commit":
            exchange.client({"type": "input_audio_buffer.commit"})
            commits, begin = [*commits, pieces], pieces
        elif name == "clear":
            exchange.client({"type": "input_audio_buffer.clear"})
            cleared += range(begin + 1, pieces + 1)
            begin = pieces
        else:
            exchange.step()
    exchange.end()
    return commits, cleared


def check_items(exchange: Exchange) -> list[dict[str, Any]]:
    """Every item is committed and completed once, in order, and its deltas joined are its transcript."""
    committed, completed = exchange.of("buffer.committed"), exchange.of(".completed")
    names = [one["item_id"] for one in committed]
    assert names == [one["item_id"] for one in completed] and len(set(names)) == len(names)
    assert [one["previous_item_id"] for one in committed] == [None, *names[:-1]][: len(names)]
    for one in completed:
        own = [each for each in exchange.sent if each.get("item_id") == one["item_id"]]
        assert "".join(each["delta"] for each in own if "delta" in each) == one["transcript"]
        assert own[-1] == one and one["transcript"] == one["transcript"].strip()
        order = [name for each in own for name in ("started", "stopped", "committed") if each["type"].endswith(name)]
        assert order in (["committed"], ["started", "committed"], ["started", "stopped", "committed"])
        tails = [each["text"] for each in own if each["type"].endswith("tail")]
        assert not tails or tails[-1] == ""
    return completed


def numbers(completed: list[dict[str, Any]]) -> list[list[int]]:
    """The words of each transcript."""
    return [[int(word[1:]) for word in one["transcript"].split()] for one in completed]


@given(OPERATIONS)
@settings(deadline=None, max_examples=120)
def test_commits_are_answered_once_and_in_order_with_their_own_words(operations: list[str]) -> None:
    exchange = Exchange("/v1/realtime")
    commits, cleared = spoken(exchange, operations)
    words = numbers(check_items(exchange))
    begin, expected = 0, []
    said = set(exchange.core.said) - set(cleared)
    for end in [*commits, len(operations)]:
        own = [k for k in range(begin + 1, end + 1) if k in said]
        if end > max([begin, *(k for k in cleared if k <= end)]):  # something was left of it
            expected.append(own)
        begin = end
    got = [one for one in words if one]
    assert got == [one for one in expected if one]
    asked = sum(name == "clear" for name in operations)
    assert len(exchange.of("buffer.cleared")) == asked
    errors = [one["error"]["code"] for one in exchange.of("error")]
    assert set(errors) <= {"input_audio_buffer_commit_empty"}
    assert len(words) + len(errors) in (len(commits), len(commits) + 1)  # one more if the end found something
    assert exchange.closed is not None and exchange.closed.code == 1000


@given(OPERATIONS)
@settings(deadline=None, max_examples=120)
def test_turns_that_the_server_finds_have_their_words_once(operations: list[str]) -> None:
    exchange = Exchange("/v1/realtime")
    exchange.client(VAD)
    _, cleared = spoken(exchange, operations)
    words = [k for one in numbers(check_items(exchange)) for k in one]
    assert words == sorted(set(words))
    assert set(exchange.core.said) - set(cleared) <= set(words) <= set(exchange.core.said)
    assert exchange.closed is not None and exchange.closed.code == 1000


@given(st.lists(st.sampled_from(["word", "silence", "pause", "flush", "core", "core"]), max_size=60), st.booleans())
@settings(deadline=None, max_examples=100)
def test_deepgram_finals_tile_and_have_every_word_once(operations: list[str], interim: bool) -> None:
    exchange = Exchange(f"/v1/listen?encoding=linear16&sample_rate=16000&interim_results={str(interim).lower()}")
    flushes = 0
    for name in operations:
        if name == "core":
            exchange.step()
        elif name == "flush":
            exchange.client({"type": "Finalize"})
            flushes += 1
        else:
            value = {"word": 1, "silence": SILENCE, "pause": PAUSE}[name]
            exchange.client(np.full(1600, value, "<i2").tobytes())
    exchange.client({"type": "CloseStream"})
    while exchange.core.waiting:
        exchange.step()
    results = exchange.of("Results")
    finals = [one for one in results if one["is_final"]]
    assert sum(one["from_finalize"] for one in finals) == flushes
    at = 0.0
    for one in finals:
        assert one["start"] == pytest.approx(at, abs=0.002)
        at = one["start"] + one["duration"]
    text = " ".join(one["channel"]["alternatives"][0]["transcript"] for one in finals)
    assert [int(word[1:]) for word in text.split()] == exchange.core.said
    assert interim or finals == results
    assert [one["type"] for one in exchange.sent[-1:]] == ["Metadata"] and len(exchange.of("Metadata")) == 1
    assert exchange.closed is not None and exchange.closed.code == 1000


@given(st.lists(st.sampled_from(["word", "silence", "pause", "reset", "core", "core", "wait"]), max_size=60))
@settings(deadline=None, max_examples=100)
def test_vosk_answers_every_message_once_and_within_its_time(operations: list[str]) -> None:
    exchange = Exchange("/")
    asked, since = 0, list[float]()
    for name in operations:
        before = len(exchange.sent)
        if name == "core":
            exchange.step()
        elif name == "wait":
            exchange.now += 0.31
            if exchange.adapter.wake is not None and exchange.adapter.wake <= exchange.now:
                exchange._apply(exchange.adapter.on_timer(exchange.now))
        elif name == "reset":
            exchange.client({"reset": 1})
            asked, since = asked + 1, [*since, float("inf")]
        else:
            exchange.client(np.full(1600, {"word": 1, "silence": SILENCE, "pause": PAUSE}[name], "<i2").tobytes())
            asked, since = asked + 1, [*since, exchange.now]
        since = since[len(exchange.sent) - before :]
        assert not since or since[0] > exchange.now - 0.3
    exchange.client({"eof": 1})
    while exchange.core.waiting:
        exchange.step()
    assert len(exchange.sent) == asked + 1
    text = " ".join(one.get("text", "") for one in exchange.sent)
    assert [int(word[1:]) for word in text.split()] == exchange.core.said
    assert exchange.closed is not None and exchange.closed.code == 1000


@pytest.mark.parametrize("target", ["/v1/realtime", "/v1/listen?encoding=linear16&sample_rate=24000", "/"])
@given(st.lists(st.sampled_from(["word", "silence", "core"]), max_size=12), st.sampled_from([*CODES, *FAILURES]))
@settings(deadline=None, max_examples=60)
def test_every_end_is_one_close(target: str, operations: list[str], reason: Any) -> None:
    exchange = Exchange(target)
    for name in operations:
        if name == "core":
            exchange.step()
        elif target == "/v1/realtime":
            exchange.append(int(name == "word"))
        else:
            exchange.client(np.full(24, int(name == "word"), "<i2").tobytes())
    if reason in FAILURES:
        exchange.hear(Failed(reason, "given up"))
    else:
        exchange.end(reason)
    assert exchange.closed is not None and exchange.closed.code == {**CODES, **FAILURES}[reason]
    exchange.client(b"more")
    exchange.append(1)
    exchange.hear(Heard(99.0))
    exchange.end("stopping")


KINDS = [
    "session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear", "KeepAlive",
    "Finalize", "Configure", "response.create", "x", 7, None,
]  # fmt: skip
PLAIN = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=5) | st.sampled_from(KINDS)
KEYS = st.sampled_from(
    "type audio session input format rate transcription model language languages keywords turn_detection threshold "
    "silence_duration_ms eagerness include event_id config sample_rate words max_alternatives reset eof".split()
)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))
UPDATE = JSON.map(lambda value: {"type": "session.update", "session": {"audio": {"input": value}}})
KIND = st.tuples(st.sampled_from(KINDS), JSON).map(
    lambda pair: {**(pair[1] if isinstance(pair[1], dict) else {}), "type": pair[0]}
)
BROKEN = (JSON | UPDATE | KIND).map(json.dumps) | st.text(max_size=20) | st.binary(max_size=20)


@pytest.mark.parametrize("target", ["/v1/realtime", "/v1/listen", "/v1/listen?encoding=linear16&sample_rate=8000", "/"])
@given(st.lists(BROKEN, max_size=12))
@settings(deadline=None, max_examples=50)
def test_nothing_that_a_client_sends_raises(target: str, messages: list[str | bytes]) -> None:
    adapter, closed = opened(target), False
    actions: list[Action] = []
    calls: list[Callable[[], Any]] = [lambda: adapter.start(0.0)]
    calls += [lambda message=message: adapter.on_client(message, 1.0) for message in messages]
    for call in calls:
        found = call()
        assert not (closed and found)
        closed = closed or any(isinstance(one, Close) for one in found)
        actions += found
    for action in actions:
        if isinstance(action, Close):
            assert len(action.reason.encode()) <= 123 and "\n" not in action.reason
        if isinstance(action, Send) and isinstance(action.message, str):
            action.message.encode()
            assert isinstance(json.loads(action.message), dict)
