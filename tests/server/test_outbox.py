"""Messages that wait for a client who reads slowly."""

import asyncio

from speechmtp.server.messages import Close, Send
from speechmtp.server.talk import Outbox


def test_a_draft_is_dropped_for_a_later_one_of_its_kind_alone() -> None:
    async def put() -> list[str]:
        outbox = Outbox()
        for message in (Send("t1", "tail"), Send("h1", "heard"), Send("word"), Send("t2", "tail"), Send("h2", "heard")):
            outbox.put(message)
        assert outbox.size == len("h2t2word") and len(outbox) == 3
        outbox.put(Close(1000, "over"))
        found = []
        while (one := outbox.pop()) is not None:
            found.append(one.reason if isinstance(one, Close) else str(one.message))
        assert outbox.size == 0 and not outbox.ready.is_set()
        return found

    assert asyncio.run(put()) == ["word", "t2", "h2", "over"]
