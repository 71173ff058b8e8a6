"""What a server and its children use, read from /proc: memory, descriptors, threads, processor time; and what the
server tells of itself at /metrics."""

import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """One process at one time: bytes of memory, open descriptors, threads, and processor seconds so far."""

    pid: int
    time: float
    rss: int
    descriptors: int
    threads: int
    cpu: float


def family(pid: int) -> list[int]:
    """A process and its children, and theirs."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(one) for one in path.read_text().split()]
    return found


def sample(pid: int) -> Sample | None:
    """A process now; None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, IndexError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Sample(pid, time.monotonic(), pages * _PAGE, descriptors, int(fields[17]),
                  (int(fields[11]) + int(fields[12])) / _TICKS)  # fmt: skip


@dataclass
class Watch:
    """Samples a process and its children every second in a thread."""

    pid: int
    samples: list[Sample] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.samples += [one for pid in family(self.pid) if (one := sample(pid))]
            if self._stop.wait(1.0):
                self.samples += [one for pid in family(self.pid) if (one := sample(pid))]
                return

    def rows(self) -> list[dict[str, Any]]:
        """What each process used."""
        return [used([one for one in self.samples if one.pid == pid]) | {"front": pid == self.pid}
                for pid in dict.fromkeys(one.pid for one in self.samples)]  # fmt: skip


@dataclass
class Levels:
    """Asks a server every few seconds how loaded it is. `loads` are its level (1: steps have grown, 2: it is full) and
    the busiest engine's seconds of work a second."""

    base: str
    token: str = ""
    loads: list[tuple[float, float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Levels":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(2.0):
            text = metrics(self.base, self.token)
            found = [
                re.search(rf"^speechmtp_{name} (\S+)$", text, re.M) for name in ("load_level", "engine_load_ratio")
            ]
            if all(found):
                self.loads.append((float(found[0][1]), float(found[1][1])))  # type: ignore[index]

    def row(self) -> dict[str, float] | None:
        """The shares of the time in which steps had grown and in which it was full, and the mean load."""
        if not self.loads:
            return None
        levels = [level for level, _ in self.loads]
        return {
            "grown": round(levels.count(1) / len(levels), 3), "full": round(levels.count(2) / len(levels), 3),
            "load": round(sum(load for _, load in self.loads) / len(levels), 3),
        }  # fmt: skip


def used(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a process used: its share of a core, memory in MB at the beginning, at the end and at most, by how much that
    grows in a minute (over the last two thirds), descriptors and threads at first, at last and at most."""
    first, last = samples[0], samples[-1]
    seconds = last.time - first.time
    steady = [one for one in samples if one.time - first.time >= seconds / 3]
    growth = None
    if len(steady) > 2 and steady[-1].time - steady[0].time >= 20:
        minutes = [(one.time - first.time) / 60 for one in steady]
        growth = round(float(np.polyfit(minutes, [one.rss / 1e6 for one in steady], 1)[0]), 3)
    return {
        "pid": first.pid, "cpu": round((last.cpu - first.cpu) / seconds, 4) if seconds > 0 else None,
        "rss_mb": [round(value / 1e6, 1) for value in (first.rss, last.rss, max(one.rss for one in samples))],
        "rss_mb_per_minute": growth,
        "descriptors": [first.descriptors, last.descriptors, max(one.descriptors for one in samples)],
        "threads": [first.threads, last.threads, max(one.threads for one in samples)],
    }  # fmt: skip


def metrics(base: str, token: str = "") -> str:
    """The text of a server's /metrics; empty if it gives none."""
    request = Request(f"{base}/metrics", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urlopen(request, timeout=5) as answer:
            return str(answer.read().decode())
    except (URLError, OSError):
        return ""


def quantile(before: str, after: str, name: str, share: float) -> float | None:
    """A quantile of a histogram between two texts of /metrics, as the upper edge of its bucket; None without values."""
    counts = {edge: value - _buckets(before, name).get(edge, 0.0) for edge, value in _buckets(after, name).items()}
    whole = max(counts.values(), default=0.0)
    if not whole:
        return None
    return min(edge for edge, count in counts.items() if count >= share * whole)


def _buckets(text: str, name: str) -> dict[float, float]:
    """Upper edge -> values up to it."""
    found: dict[float, float] = {}
    for edge, value in re.findall(rf'^{name}_bucket{{[^}}]*le="([^"]+)"[^}}]*}} (\S+)', text, re.M):
        found[float(edge)] = found.get(float(edge), 0.0) + float(value)
    return found
