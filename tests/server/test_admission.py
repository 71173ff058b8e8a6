"""Who is let in."""

import pytest

from speechmtp.server.admission import Room, SpeechShare, capacity, choose, cost_at
from speechmtp.server.link import Load, Readiness

READY = Readiness({"default": ()}, "cpu", {"0.5": 0.3, "1.0": 0.2}, 0.1)


def test_the_engine_with_the_least_load_takes_the_next_one() -> None:
    rooms = [Room(READY, shares=[1.0, 1.0]), Room(READY, shares=[1.0])]
    assert choose(rooms, 1.0, 0.8) == 1
    rooms[1].shares = [1.0, 0.6, 0.7]
    assert choose(rooms, 1.0, 0.8) == 0


def test_engines_are_filled_up_to_their_share() -> None:
    taken: list[list[float]] = [[], []]
    while (found := choose([Room(READY, shares=one) for one in taken], 1.0, 0.8)) is not None:
        taken[found].append(1.0)
    assert [len(one) for one in taken] == [4, 4]
    assert capacity([Room(READY, shares=one) for one in taken], 1.0, 0.8) == 8


def test_those_who_pause_leave_room_for_others() -> None:
    assert choose([Room(READY, shares=[0.55] * 5)], 1.0, 0.8) == 0
    assert choose([Room(READY, shares=[0.0] * 7)], 1.0, 0.8) is None, "half of the time is kept for each"


def test_nobody_is_let_in_where_passes_wait() -> None:
    late = Room(READY, Load(lateness=2.0))
    assert choose([late], 1.0, 0.8) is None
    assert choose([late, Room(READY, shares=[1.0])], 1.0, 0.8) == 1, "another engine has room"


def test_a_slow_machine_takes_one_and_an_engine_that_is_down_none() -> None:
    slow = Readiness({"large": ()}, "cpu", {"0.5": 3.0, "1.0": 2.0}, 1.0)
    assert choose([Room(slow)], 1.0, 0.8) == 0
    assert choose([Room(slow, shares=[1.0])], 1.0, 0.8) is None
    assert choose([Room(None)], 1.0, 0.8) is None and choose([], 1.0, 0.8) is None
    assert capacity([Room(slow), Room(None)], 1.0, 0.8) == 1


def test_there_may_be_a_number_of_sessions() -> None:
    rooms = [Room(READY, shares=[1.0]), Room(READY, shares=[1.0])]
    assert choose(rooms, 1.0, 0.8, most=2) is None
    assert choose(rooms, 1.0, 0.8, most=3) is not None
    assert capacity(rooms, 1.0, 0.8, most=3) == 3


def test_costs_are_those_of_the_nearest_step() -> None:
    assert cost_at(READY, 0.6) == 0.3 and cost_at(READY, 5.0) == 0.2


def test_the_share_of_speech_follows_what_is_heard() -> None:
    share = SpeechShare()
    assert share.value == 1.0
    for second in range(1, 301):
        share.move(float(second), speaking=second % 4 < 2)
    assert share.value == pytest.approx(0.5, abs=0.05)
    for second in range(301, 601):
        share.move(float(second), speaking=False)
    assert share.value < 0.01
