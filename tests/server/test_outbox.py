"""Messages that wait for a client that reads slowly."""

import asyncio

from speechmtp.server.messages import Close, Send
from speechmtp.server.talk import Outbox


def test_a_later_message_replaces_only_one_of_its_kind() -> None:
    async def waiting() -> tuple[list[Send | Close | None], int]:
        box = Outbox()
        for one in (Send("a tail", "tail"), Send("words"), Send("position", "heard"), Send("a later tail", "tail"),
                    Send("a later position", "heard"), Close(1000)):  # fmt: skip
            box.put(one)
        size = box.size
        return [box.pop() for _ in range(5)], size

    found, size = asyncio.run(waiting())
    assert [one.message for one in found if isinstance(one, Send)] == ["words", "a later tail", "a later position"]
    assert found[3:] == [Close(1000), None] and size == len("words") + len("a later tail") + len("a later position")
