"""Engine processes are started, watched, killed and started again, and no session notices but by a delay."""

import asyncio
import os
import signal
import sys
import zlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from stub import stub_config

from speechmtp.errors import ConfigError
from speechmtp.server import pool as pools
from speechmtp.server.messages import Audio, CoreEvent, End, Ended, Failed, Final, Flush
from speechmtp.server.pool import Pool

NOISE = np.random.default_rng(0).integers(-9999, 9999, 64000, dtype=np.int16)


def run(work: Callable[[Pool], Awaitable[None]], *options: str, workers: int = 1) -> list[str]:
    """Do something with a pool of stubs; why engines were started again."""
    reasons = list[str]()

    async def main() -> None:
        pool = Pool(stub_config(*options, workers=workers), reasons.append)
        try:
            await pool.start()
            await work(pool)
        finally:
            await pool.stop()

    asyncio.run(main())
    return reasons


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


def said(events: Sequence[CoreEvent]) -> list[tuple[str, int | None]]:
    return [(event.text, event.flush) for event in events if isinstance(event, Final)]


def checked(samples: np.ndarray) -> str:
    return f"n{len(samples)}x{zlib.crc32(samples.tobytes()):08x}"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_engine_loses_nothing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "SILENCE", 0.8)

    async def work(pool: Pool) -> None:
        events, [engine] = list[CoreEvent](), pool.engines
        session = pool.open(engine, events.extend)
        session.command(Audio(NOISE[:8000], 16000))
        session.command(Flush(1))
        await until(lambda: bool(said(events)))
        session.command(Audio(NOISE[8000:20000], 16000))
        assert engine.pid is not None
        before = engine.pid
        os.kill(before, number)
        session.command(Audio(NOISE[20000:40000], 16000))
        session.command(Flush(2))
        session.command(Audio(NOISE[40000:], 16000))
        session.command(End())
        await until(lambda: isinstance(events[-1], Ended))
        texts = said(events)
        assert [flush for _, flush in texts] == [1, 2, None]
        wanted = [checked(NOISE[:8000]), checked(NOISE[8000:40000]), checked(NOISE[40000:])]
        assert [text.split()[-1] for text, _ in texts] == wanted
        assert engine.pid != before and engine.restarts == 1

    assert ("stuck" in run(work)) == (number == signal.SIGSTOP)


def test_audio_that_breaks_engines_is_given_up_and_the_others_go_on() -> None:
    async def work(pool: Pool) -> None:
        bad, good, [engine] = list[CoreEvent](), list[CoreEvent](), pool.engines
        healthy = pool.open(engine, good.extend)
        healthy.command(Audio(NOISE[:16000], 16000))
        await until(lambda: bool(good))
        poison = pool.open(engine, bad.extend)
        poison.command(Audio(np.full(100, 20000, np.int16), 16000))
        await until(lambda: bool(bad))
        [failed] = bad
        assert isinstance(failed, Failed) and failed.code == "poisoned" and engine.restarts == 2
        healthy.command(Flush(1))
        await until(lambda: bool(said(good)))
        [(text, _)] = said(good)
        assert text.split()[-1] == checked(NOISE[:16000])

    run(work, "--poison", "20000")


def test_a_session_that_is_closed_is_forgotten() -> None:
    async def work(pool: Pool) -> None:
        events, [engine] = list[CoreEvent](), pool.engines
        for _ in range(20):
            session = pool.open(engine, events.extend)
            session.command(Audio(NOISE[:1600], 16000))
            session.leave()
            session.command(Flush(1))
        await until(lambda: engine.load.sessions == 0)
        assert not engine.sessions and not engine.room.shares and not said(events)

    run(work)


def test_sessions_of_a_lost_engine_go_on_elsewhere() -> None:
    async def work(pool: Pool) -> None:
        events, (first, second) = list[CoreEvent](), pool.engines
        session = pool.open(first, events.extend)
        session.command(Audio(NOISE[:20000], 16000))
        await until(lambda: bool(events))
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: bool(second.sessions))
        session.command(Flush(1))
        await until(lambda: bool(said(events)))
        assert [text.split() for text, _ in said(events)] == [["w1", checked(NOISE[:20000])]]
        session.leave()
        assert not second.sessions and not first.sessions

    run(work, workers=2)


def test_each_core_has_its_engine() -> None:
    async def work(pool: Pool) -> None:
        assert len({engine.pid for engine in pool.engines}) == 2
        assert [engine.readiness is not None for engine in pool.engines] == [True, True]

    run(work, workers=2)


def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import socket, sys\nfrom speechmtp.server.link import Kind, frame\n"
        "wire = socket.socket(fileno=int(sys.argv[sys.argv.index('--fd') + 1]))\n"
        "wire.sendall(frame(Kind.FATAL, 0, {'message': 'nowhere: no such model', 'user': True}))\n"
    )

    async def main() -> None:
        config = stub_config()
        pool = Pool(type(config)(engine=[sys.executable, str(broken)]))
        try:
            with pytest.raises(ConfigError, match="nowhere: no such model"):
                await pool.start()
        finally:
            await pool.stop()

    asyncio.run(main())
