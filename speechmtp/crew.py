"""Worker threads that compute a function of many items side by side, with the results in order."""

import atexit
import ctypes
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")

_starting = threading.Lock()  # see `_start`
_crews: "weakref.WeakSet[Crew]" = weakref.WeakSet()


class Dismissed(BaseException):
    """Raised inside a worker whose crew is closed, between two operations of whatever it computes."""


class Crew:
    """`size` worker threads with `threads` arithmetic threads each. A crew of one is the caller's own thread, with its
    own number of arithmetic threads. PyTorch's setting stays as it is in every other thread.

    Workers start when there is work for them and take the next item whenever they are done with one, so that one whose
    core is busy with something else does less. As a context manager it ends its workers, in the middle of an item too.
    """

    def __init__(self, size: int = 1, threads: int = 1) -> None:
        self.size, self.threads = size, threads
        # Workers take no lock of Python's, since `Dismissed` could come just after that: `_tokens` has a token for each
        # task in the two deques, and at the end one for each worker.
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._first, self._later = deque[tuple[Any, ...]](), deque[tuple[Any, ...]]()
        self._workers: list[threading.Thread] = []
        self._awake: list[int] = []  # identifiers of workers that catch `Dismissed`
        self._open: list[Future[Any]] = []  # not computed yet; kept until all workers have started
        self._closed = False
        _crews.add(self)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def map(
        self, function: Callable[[A], B], items: Iterable[A], ahead: int | None = None, first: bool = False,
        weigh: Callable[[A], float] = lambda item: 0.0, most: float = math.inf,
    ) -> Iterator[B]:  # fmt: skip
        """The function's results in the order of the items, which are taken in the caller's thread: at most `ahead`
        (None: all) beyond the one whose result is fetched, and no more once those taken `weigh` together `most`. With
        `first` they go before the items of other calls. An exception of `function` is raised in its place, one of
        `items` after the results before it."""
        alone = self.size == 1
        return map(function, items) if alone else self._map(function, iter(items), ahead, first, weigh, most)

    def _map(
        self, function: Callable[[A], B], items: Iterator[A], ahead: int | None, first: bool,
        weigh: Callable[[A], float], most: float,
    ) -> Iterator[B]:  # fmt: skip
        given: deque[Future[B]] = deque()
        weights, total = deque[float](), 0.0
        failure: Exception | None = None
        more = True
        while more or given:
            while more and (ahead is None or len(given) <= ahead) and (not given or total < most):
                try:
                    item = next(items)
                    given.append(self._give(function, item, first))
                    weights.append(weigh(item))
                    total += weights[-1]
                except StopIteration:
                    more = False
                except Exception as error:
                    more, failure = False, error
            if given:
                total -= weights.popleft()
                yield given.popleft().result()
        if failure is not None:
            raise failure

    def _give(self, function: Callable[[A], B], item: A, first: bool) -> "Future[B]":
        """Queue an item, and start another worker if all are at work."""
        future: Future[B] = Future()
        (self._first if first else self._later).append((future, function, item))
        self._tokens.put(None)
        if len(self._workers) < self.size:
            self._open = [one for one in self._open if not one.done()]
            if len(self._open) >= len(self._workers):
                self._start()
            self._open = [*self._open, future] if len(self._workers) < self.size else []
        return future

    def _start(self) -> None:
        """Start a worker. A number of threads that a thread sets also becomes the default of threads that have not
        computed yet, so the caller's own number is set again before another crew looks."""
        with _starting:
            before = torch.get_num_threads()
            ready = threading.Event()
            worker = threading.Thread(target=self._work, args=(ready,), name="speechmtp worker", daemon=True)
            self._workers.append(worker)
            try:
                worker.start()
                ready.wait()
            finally:
                if before != self.threads:
                    torch.set_num_threads(before)

    def _work(self, ready: threading.Event) -> None:
        """A worker's life."""
        try:
            if torch.get_num_threads() != self.threads:
                torch.set_num_threads(self.threads)
            self._awake.append(threading.get_ident())
            ready.set()
            while self._compute_next():
                pass
        except Dismissed:
            pass

    def _compute_next(self) -> bool:
        """Wait for an item and compute it; False once the crew is closed."""
        self._tokens.get()
        task = self._take()
        while task is None:
            if self._closed:
                return False
            task = self._take()
        future, function, item = task
        try:
            result = function(item)
        except Dismissed:
            raise
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return True

    def _take(self) -> tuple[Any, ...] | None:
        """The next task; None where others were quicker, which then left one elsewhere."""
        for tasks in (self._first, self._later):
            with suppress(IndexError):
                return tasks.popleft()
        return None

    def close(self) -> None:
        """End the workers and wait for them; what they have not computed is given up. A worker that computes notices as
        soon as the main thread would notice Ctrl-C."""
        workers, self._workers = self._workers, []
        while self._awake:  # first of all: a worker that ended by itself would be told in the middle of its end
            worker = ctypes.c_ulong(self._awake.pop())
            ctypes.pythonapi.PyThreadState_SetAsyncExc(worker, ctypes.py_object(Dismissed))
        self._closed = True
        self._first.clear()
        self._later.clear()
        for _ in workers:
            self._tokens.put(None)
        for one in workers:
            if one.ident is not None and one is not threading.current_thread():  # the collector closes in any thread
                one.join()


def _close_all() -> None:
    """Close the crews that are still open: threads that compute must not outlive the interpreter."""
    for crew in list(_crews):
        crew.close()


def _forget() -> None:
    """Forget the crews, in a forked process, which has none of its parent's workers."""
    _starting.release()
    _crews.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # a fork waits until a worker has started, so that the lock is free in the child
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_forget)
