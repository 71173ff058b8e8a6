"""An engine process: live sessions on the models of a server, as its front tells it by frames (`link.py`).

    python -m speechmtp.server.engine --fd N --model NAME=MODEL ... [--device D]

It computes in one thread; two others read and give signs of life. The front starts, watches and ends it.
"""

import argparse
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from speechmtp.api import Recogniser, load
from speechmtp.audio.activity import load_activity
from speechmtp.audio.io import read_audio, resample
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.examples import example
from speechmtp.server import messages
from speechmtp.server.calibration import PassTimes, describe, measure
from speechmtp.server.engine_wire import EngineWire
from speechmtp.server.link import BEAT, Frame, Kind, Load, Opening, Readiness, Said, read_opening, write_said
from speechmtp.server.live import HEARD, Live, stream_config
from speechmtp.server.messages import Cleared, Settings
from speechmtp.streaming.checkpoint import Checkpoint
from speechmtp.streaming.config import EngineConfig
from speechmtp.streaming.engine import Handle, SessionEngine
from speechmtp.streaming.events import Failed, StreamEvent
from speechmtp.streaming.passes import decode_window, strategy_of

NICE = 5  # below the front
SLOTS = 1024  # sessions at most; the front admits them
TOGETHER = 8  # passes that a GPU decodes together. On a CPU four together save 3 % and delay the first by three passes
LOAD_SECONDS = 5.0  # over which the load is measured


class EngineProcess:
    """The sessions of all models. `serve` runs until the front is gone."""

    def __init__(self, wire: EngineWire, models: Mapping[str, Recogniser]) -> None:
        self._wire = wire
        self._engines = {name: SessionEngine(model, engine_config(model)) for name, model in models.items()}
        self._lives: dict[int, Live] = {}
        self._by_handle: dict[tuple[int, Handle], Live] = {}
        self._worked: deque[tuple[float, float]] = deque()  # when, and for how long
        self._seconds = 0.0

    def serve(self) -> None:
        """Read, decode the most urgent passes, and say what arises, for ever."""
        wait = 0.0
        while True:
            wait = self.turn(wait)

    def turn(self, wait: float) -> float:
        """One round, which waits so long for frames; for how long the next one may."""
        for came, one in self._wire.take(wait):
            self._take(came, one)
        began = time.monotonic()
        engines = list(self._engines.values())
        deadlines = [(due, place) for place, one in enumerate(engines) if (due := one.look(began)) is not None]
        for engine in engines:
            self._collect(engine, engine.said())
        later = self._say()
        if deadlines:
            self._run(engines[min(deadlines)[1]])
            later = self._say() or later
        now = time.monotonic()
        self._note(now, now - began)
        if any(engine.waiting for engine in engines):
            return 0.0
        return HEARD if later else BEAT

    # Passes

    def _run(self, engine: SessionEngine) -> None:
        def running(handles: Sequence[Handle]) -> None:
            numbers = [self._by_handle[id(engine), handle].number for handle in handles]
            self._wire.send(Kind.RUNNING, 0, {"sessions": numbers})

        events = engine.step(time.monotonic(), running)
        self._wire.send(Kind.RUNNING, 0, {"sessions": []})
        self._collect(engine, events)

    def _collect(self, engine: SessionEngine, events: Sequence[tuple[Handle, StreamEvent]]) -> None:
        """Give events to their sessions."""
        for handle, event in events:
            live = self._by_handle.get((id(engine), handle))
            if live is None:
                continue  # of audio that was cleared
            if isinstance(event, Failed):
                self._fail(live, event.error)
                continue
            live.take(event)
            live.changed = True
            try:
                self._release(live)
            except Exception as error:  # whatever it is, the other sessions go on
                self._fail(live, error)

    def _say(self) -> bool:
        """Send what arose; whether something is to be said soon."""
        now, later = time.monotonic(), False
        for live in list(self._lives.values()):
            ended = any(isinstance(event, messages.Ended) for event in live.said)
            later |= not ended and not live.hear(now)
            if not live.said:
                continue
            keep, resume = (live.end, None) if ended else live.resume()
            self._send(live, keep, resume)
            if ended:
                self._forget(live)
        return later

    def _send(self, live: Live, keep: float, resume: dict[str, Any] | None) -> None:
        said, live.said = Said(tuple(live.said), keep, resume), []
        self._wire.send(Kind.EVENTS, live.number, write_said(said))

    def _note(self, now: float, seconds: float) -> None:
        """Note how much work there was, and let the front know."""
        engines = self._engines.values()
        self._worked.append((now, seconds))
        self._seconds += seconds
        while self._worked[0][0] < now - LOAD_SECONDS:
            self._worked.popleft()
        self._wire.load = Load(
            sum(each for _, each in self._worked) / LOAD_SECONDS, max(one.lateness for one in engines),
            any(one.crowded for one in engines), len(self._lives), sum(one.passes for one in engines), self._seconds,
        )  # fmt: skip

    # Frames

    def _take(self, now: float, one: Frame) -> None:
        """Take a frame; one of a session that is not there is dropped."""
        live = self._lives.get(one.session)
        try:
            if one.kind is Kind.OPEN:
                self._open(one.session, read_opening(one.json()))
            elif live is None:
                return
            elif one.kind is Kind.CLOSE:
                self._forget(live)
            else:
                live.held.append((now, one))
                self._release(live)
        except Exception as error:  # whatever it is, the other sessions go on
            if live is None:
                failed = Said((messages.Failed("failed", _line(error)),), 0.0)
                self._wire.send(Kind.EVENTS, one.session, write_said(failed))
            else:
                self._fail(live, error)

    def _act(self, live: Live, now: float, one: Frame) -> None:
        live.changed = True
        if one.kind is Kind.AUDIO:
            samples = np.frombuffer(one.payload, "<i2").astype(np.float32) / (1 << 15)
            live.engine.feed(live.handle, samples, live.rate, now)
            live.end += len(samples) / live.rate
        elif one.kind is Kind.FLUSH:
            live.engine.flush(live.handle, now)
            live.flushes.append(one.json()["number"])
        elif one.kind is Kind.END:
            live.engine.finish(live.handle, now)
        elif one.kind is Kind.CLEAR:
            self._begin(live, live.settings, live.rate)
            live.said.append(Cleared(live.end))
        elif one.kind is Kind.CONFIGURE:
            self._configure(live, now, one)

    def _configure(self, live: Live, now: float, one: Frame) -> None:
        """Begin anew with other settings, once what was said until here is answered."""
        told = one.json()
        settings, rate = Settings(**told["settings"]), float(told["rate"])
        if (settings, rate) == (live.settings, live.rate):
            return
        live.then = settings, rate
        if live.end > live.offset:
            live.engine.flush(live.handle, now)
            live.flushes.append(None)

    def _release(self, live: Live) -> None:
        """Take the frames that need not wait for flushes."""
        while True:
            if live.then is not None and not live.flushes:
                self._begin(live, *live.then)
                live.then = None
            waits = live.flushes and live.held and live.held[0][1].kind in (Kind.CLEAR, Kind.CONFIGURE)
            if not live.held or live.then is not None or waits:
                return
            self._act(live, *live.held.popleft())

    # Sessions

    def _open(self, number: int, opening: Opening) -> None:
        told = dict(opening.resume or {})
        at = Checkpoint.from_json(told["checkpoint"]) if told else None
        engine = self._engine(opening.settings)
        handle = engine.open(stream_config(opening.settings), opening.settings.language, resume=at, alone=opening.alone)
        start = opening.offset
        live = Live(number, opening.settings, opening.rate, start, start, opening.alone, engine, handle, heard=start)
        live.tokens, live.calls = told.get("tokens", 0), told.get("calls", 0)
        self._lives[number] = self._by_handle[id(engine), handle] = live

    def _begin(self, live: Live, settings: Settings, rate: float) -> None:
        """Recognise what follows anew."""
        spoken = live.engine.session(live.handle).checkpoint().spoken
        (live.tokens, live.calls), live.offset = live.counts(), live.end
        del self._by_handle[id(live.engine), live.handle]
        live.engine.close(live.handle)
        live.settings, live.rate, live.engine = settings, rate, self._engine(settings)
        at = Checkpoint(spoken=spoken)
        live.handle = live.engine.open(stream_config(settings), settings.language, resume=at, alone=live.alone)
        self._by_handle[id(live.engine), live.handle] = live

    def _engine(self, settings: Settings) -> SessionEngine:
        """The engine of a model's name. ConfigError for one that is not there."""
        found = self._engines.get(settings.model or next(iter(self._engines)))
        if found is None:
            raise ConfigError(f"model {settings.model}: not here, expected one of {', '.join(self._engines)}")
        return found

    def _fail(self, live: Live, error: Exception) -> None:
        """Give a session up."""
        if not isinstance(error, SpeechMTPError):
            traceback.print_exception(error)
        live.said.append(messages.Failed("failed", _line(error)))
        self._send(live, live.end, None)
        self._forget(live)

    def _forget(self, live: Live) -> None:
        del self._lives[live.number]
        del self._by_handle[id(live.engine), live.handle]
        if live.engine.has(live.handle):
            live.engine.close(live.handle)


def _line(error: Exception) -> str:
    """An error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, SpeechMTPError) else f"{type(error).__name__}: {text}"[:300]


def engine_config(model: Recogniser) -> EngineConfig:
    """The sizes of an engine on the model's device."""
    return EngineConfig(slots=SLOTS, together=1 if model.device.type == "cpu" else TOGETHER)


def calibrate(name: str, model: Recogniser, warm: bool = False) -> PassTimes | None:
    """Measure what passes of a model cost here; only let it run once, so that it is `warm`."""
    strategy, language = strategy_of(model, ""), next(iter(model.bundle.model.languages), "")
    samples, rate = read_audio(example("reading"))
    samples = samples.astype(np.float32) if rate == model.rate else resample(samples, rate, model.rate)
    stream = load_activity().stream()

    def decode(window: np.ndarray, prefix: Sequence[int], previous: Sequence[int]) -> list[int]:
        return decode_window(model, strategy, window, language, prefix, previous)

    if warm:
        decode(samples[: 2 * model.rate], decode(samples[: 2 * model.rate], (), ())[:2], ())
        return None
    times = measure(decode, samples, model.rate, model.longest, stream.push)
    print(describe(times, name), file=sys.stderr, flush=True)
    return times


def readiness(models: Mapping[str, Recogniser], known: str = "") -> Readiness:
    """What the front is told of models that are loaded: the costs are those of the dearest, or what is `known` of them,
    as JSON, from an engine that was here before."""
    found = [calibrate(name, model, warm=bool(known)) for name, model in models.items()]
    if known:
        return Readiness(**json.loads(known))
    times = [one for one in found if one is not None]
    dearest = max(times, key=lambda one: one.cost(1.0))
    languages = {name: list(model.bundle.model.languages) for name, model in models.items()}
    device = str(next(iter(models.values())).device)
    return Readiness(languages, device, dearest.costs, dearest.final_seconds, torch.get_num_threads())


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of an engine process."""
    parser = argparse.ArgumentParser(prog="speechmtp.server.engine", description="an engine process of a server")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the front, which was inherited")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--known", default="", metavar="JSON", help="what an engine like this one said when it was ready"
    )
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Load, calibrate, serve. 2 for a model that cannot be loaded, after telling the front."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front decides
    os.nice(NICE)
    args = parse_arguments(given)
    torch.set_num_threads(args.threads)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr, flush=True)
    wire = EngineWire(socket.socket(fileno=args.fd))
    try:
        named = dict(one.split("=", 1) for one in args.model) or {"default": "default"}
        models = {name: load(model, args.device) for name, model in named.items()}
        ready = readiness(models, args.known)
    except SpeechMTPError as error:
        wire.send(Kind.FATAL, 0, {"message": str(error), "user": True})
        return 2
    except Exception as error:
        wire.send(Kind.FATAL, 0, {"message": _line(error), "user": False})
        raise
    process = EngineProcess(wire, models)
    gc.collect()
    gc.freeze()  # models are not searched for garbage again
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the front is gone
        wire.send(Kind.READY, 0, asdict(ready))
        process.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
