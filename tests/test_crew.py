"""Worker threads: results in order, items taken lazily, exceptions in place, a prompt end, settings untouched."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from speechmtp.crew import Crew


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "waited for 20 s"
        time.sleep(0.001)


def endless(item: object) -> None:
    """A function that never comes to an end by itself."""
    while True:
        time.sleep(0.001)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(size: int) -> None:
    def slow(number: int) -> int:
        time.sleep(0.001 * (number * 7 % 5))
        return number

    with Crew(size) as crew:
        assert list(crew.map(slow, range(40), 3)) == list(range(40))
        assert list(crew.map(slow, [], 3)) == []
        assert list(crew.map(slow, range(40))) == list(range(40))


@pytest.mark.parametrize("size", [1, 3])
def test_items_are_taken_in_the_callers_thread_and_only_so_many_ahead(size: int) -> None:
    taken: list[tuple[int, int]] = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append((number, threading.get_ident()))
            yield number

    with Crew(size) as crew:
        found = crew.map(lambda number: number, items(), 4)
        assert not taken
        for number in range(10):
            assert next(found) == number
            assert len(taken) == (number + 1 if size == 1 else number + 5)
    assert {thread for _, thread in taken} == {threading.get_ident()}


def test_heavy_items_are_taken_less_far_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for weight in [1] * 6 + [10] * 6:
            taken.append(weight)
            yield weight

    with Crew(2) as crew:
        found = crew.map(lambda weight: weight, items(), 4, weigh=float, most=12.0)
        assert next(found) == 1 and len(taken) == 5, "as many as may be ahead"
        assert [next(found) for _ in range(5)] == [1] * 5 and len(taken) == 8, "two heavy ones are enough"
        assert list(found) == [10] * 6


def test_workers_compute_side_by_side_and_a_crew_of_one_is_the_callers_thread() -> None:
    together = threading.Barrier(3)

    def meet(item: int) -> int:
        together.wait(20)
        return threading.get_ident()

    with Crew(3) as crew:
        found = set(crew.map(meet, range(3)))
    assert len(found) == 3 and threading.get_ident() not in found
    with Crew() as crew:
        assert set(crew.map(lambda item: threading.get_ident(), range(3))) == {threading.get_ident()}


def test_no_more_workers_start_than_there_is_work_for() -> None:
    with Crew(8) as crew:
        for _ in range(3):
            assert list(crew.map(abs, [1])) == [1]
            assert len(crew._workers) == 1


def test_what_goes_first_overtakes_what_waits() -> None:
    order: list[str] = []
    gates = {"a": threading.Event(), "b": threading.Event()}

    def note(name: str) -> str:
        if name in gates:
            gates[name].wait(20)
        order.append(name)
        return name

    with Crew(2) as crew:
        given = [crew._give(note, name, name in "ef") for name in "abcdef"]
        wait_for(lambda: len(crew._first) + len(crew._later) == 4)
        gates["b"].set()  # one worker is left for all others
        wait_for(lambda: len(order) == 5)
        gates["a"].set()
        assert [one.result(20) for one in given] == list("abcdef")
    assert order == list("befcda")


@pytest.mark.parametrize("size", [1, 2])
def test_exceptions_are_raised_in_their_places(size: int) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyError("mine")

    with Crew(size) as crew:
        found = crew.map(lambda number: 1 // (number - 1), iter([0, 3, 1, 2]), 9)
        assert next(found) == -1 and next(found) == 0
        with pytest.raises(ZeroDivisionError):
            next(found)
        found = crew.map(lambda number: number, items(), 9)
        assert [next(found), next(found), next(found)] == [0, 1, 2], "what was taken before it"
        with pytest.raises(KeyError, match="mine"):
            next(found)


def test_closing_ends_workers_in_the_middle_of_an_item() -> None:
    before = threading.active_count()
    for _ in range(20):
        with Crew(3) as crew:
            for _ in range(5):
                crew._give(endless, 0, False)
            wait_for(lambda: len(crew._later) == 2)
        assert threading.active_count() == before
    crew.close()  # a second time


def test_a_swallowed_dismissal_ends_the_worker_all_the_same() -> None:
    started = threading.Event()

    def stubborn(item: int) -> None:
        try:
            started.set()
            endless(item)
        except BaseException:
            pass

    with Crew(2) as crew:
        crew._give(stubborn, 0, False)
        assert started.wait(20)


def test_workers_have_their_own_number_of_threads_and_others_keep_theirs() -> None:
    def threads(item: object = None) -> int:
        return torch.get_num_threads()

    def of_a_new_thread() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(threads()))
        thread.start()
        thread.join()
        return found[0]

    before = torch.get_num_threads()
    try:
        for mine in (1, 3):
            torch.set_num_threads(mine)
            for theirs in (1, 2):
                with Crew(2, theirs) as crew:
                    assert set(crew.map(threads, range(4))) == {theirs}
                    assert threads() == of_a_new_thread() == mine
            with Crew(1, 2) as crew:
                assert list(crew.map(threads, range(2))) == [mine, mine], "the caller's own"
    finally:
        torch.set_num_threads(before)


def test_a_program_ends_though_a_crew_is_at_work() -> None:
    code = (
        "import time\n"
        "from speechmtp.crew import Crew\n"
        "def long(item):\n"
        "    while True: time.sleep(0.001)\n"
        "crew = Crew(2)\n"
        "found = crew.map(len, ['a', 'b'])\n"
        "print(next(found), flush=True)\n"
        "crew._give(long, 0, False)\n"
        "time.sleep(0.05)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
