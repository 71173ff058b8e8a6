"""The process that transcribes uploads, part by part, one part of each in turn: a short one passes a long one.

Its reading threads decode files ahead, two parts of each; one thread encodes and decodes parts. It is nicer than
engines, so that live streams go first.
"""

import argparse
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from queue import Full, Queue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from speechmtp.audio.cut import speech
from speechmtp.errors import ConfigError, DataError, SpeechMTPError
from speechmtp.heap import give_back
from speechmtp.server.link import BEAT, Frame, FrameReader, Kind, frame
from speechmtp.server.reading import NAME, upload_blocks
from speechmtp.server.uploads import Failure, Part, Pulse, Segment, TokenLogprob, Upload, write_part

if TYPE_CHECKING:
    from speechmtp.api import Recogniser
    from speechmtp.transcripts import Transcript

logger = logging.getLogger("speechmtp.server")

NICE = 15  # engines have 5
AHEAD = 2  # parts of an upload that are read before their turn
READING = 4  # files that are read at once: a block of one may take 100 MB
TRIMMED = 8  # parts after which memory is given back
_FRAME = 512 / 16000  # seconds of a probability of speech

_Item = np.ndarray | Exception | None  # a part, why there is no more, or the end


class ModelError(Exception):
    """A model that cannot be loaded; the log says why."""


@dataclass
class _Job:
    """An upload: what is asked, the parts that were read, and how far it is."""

    number: int
    upload: Upload
    ready: "Queue[_Item]" = field(default_factory=lambda: Queue(AHEAD))
    cancelled: threading.Event = field(default_factory=threading.Event)
    end: float = 0.0


class Transcriber:
    """Takes uploads from a socket and says what is in them. `models` are paths by name, loaded when they are first
    asked for; `seconds` is the most that a recording may have."""

    def __init__(self, wire: socket.socket, models: dict[str, str], device: str, seconds: float) -> None:
        self._wire, self._models, self._device, self._seconds = wire, models, device, seconds
        self._loaded: dict[str, Recogniser] = {}
        self._jobs = deque[_Job]()
        self._opened = deque[_Job]()
        self._changed = threading.Condition()
        self._reading = threading.Semaphore(READING)
        self._writing = threading.Lock()
        self._stopping = False
        self._since: float | None = None  # when the part began that is decoded now

    def run(self) -> None:
        """Serve until the front says STOP or is gone."""
        for work in (self._hear, self._beat):
            threading.Thread(target=work, daemon=True).start()
        parts = 0
        while True:
            job = self._next()
            if job is None:
                return
            self._since = time.monotonic()
            self._turn(job)
            self._since = None
            parts += 1
            if parts % TRIMMED == 0 or not self._jobs:
                give_back()

    # The wire

    def _hear(self) -> None:
        """Take what the front says."""
        reader = FrameReader()
        while data := self._received():
            for one in reader.push(data):
                self._take(one)
        os._exit(0)  # the front is gone

    def _received(self) -> bytes:
        try:
            return self._wire.recv(1 << 16)
        except OSError:
            return b""

    def _take(self, one: Frame) -> None:
        with self._changed:
            if one.kind is Kind.OPEN:
                self._opened.append(_Job(one.session, Upload(**one.json())))
            elif one.kind is Kind.CLOSE:
                for job in [*self._jobs, *self._opened]:
                    if job.number == one.session:
                        job.cancelled.set()
            elif one.kind is Kind.STOP:
                self._stopping = True
            self._changed.notify_all()

    def _beat(self) -> None:
        """Give signs of life."""
        while True:
            since = self._since
            stuck = 0.0 if since is None else time.monotonic() - since
            self._tell(Kind.BEAT, 0, asdict(Pulse(len(self._jobs) + len(self._opened), stuck)))
            time.sleep(BEAT)

    def _tell(self, kind: Kind, session: int, payload: dict[str, Any]) -> None:
        with self._writing:
            try:
                self._wire.sendall(frame(kind, session, payload))
            except OSError:
                os._exit(0)

    # Turns

    def _next(self) -> _Job | None:
        """The job whose turn it is, once it has something; None to stop."""
        with self._changed:
            while not self._stopping:
                if self._opened:
                    return self._opened.popleft()
                for job in [one for one in self._jobs if one.cancelled.is_set()]:
                    self._jobs.remove(job)
                for _ in range(len(self._jobs)):
                    job = self._jobs.popleft()
                    self._jobs.append(job)
                    if not job.ready.empty():
                        return job
                self._changed.wait()
            return None

    def _turn(self, job: _Job) -> None:
        """Begin a job, or decode its next part."""
        try:
            over = self._begin(job) if job not in self._jobs else self._part(job)
        except ModelError:
            over = self._fail(job, f"{job.upload.model}: the model cannot be loaded for files; see the log", False)
        except (DataError, ConfigError) as error:
            over = self._fail(job, str(error), True)
        except Exception:
            logger.exception("uploads: a file cannot be transcribed")
            over = self._fail(job, "the file cannot be transcribed; see the server's log", False)
        if over and job in self._jobs:
            job.cancelled.set()
            self._jobs.remove(job)

    def _fail(self, job: _Job, message: str, user: bool) -> bool:
        self._tell(Kind.EVENTS, job.number, {"failed": asdict(Failure(message, user))})
        return True

    def _begin(self, job: _Job) -> bool:
        """Load the model of a job, and begin to read."""
        if job.cancelled.is_set():
            return True
        recogniser = self._recogniser(job.upload.model)
        threading.Thread(target=self._read, args=(job, recogniser), daemon=True).start()
        self._jobs.append(job)
        return False

    def _recogniser(self, name: str) -> "Recogniser":
        """The model of this name, loaded."""
        from speechmtp.api import load

        if name not in self._loaded:
            try:
                found = load(self._models[name], device=self._device)
                strategy = found.default_strategy
                if strategy.length is not None:
                    found.runner.bind(found.runner.prepared(strategy))
            except SpeechMTPError as error:
                logger.error("uploads: %s", error)
                raise ModelError from error
            self._loaded[name] = found
        return self._loaded[name]

    def _read(self, job: _Job, recogniser: "Recogniser") -> None:
        """Read a file and cut it, in a thread of its own."""
        cutter = recogniser.cutter()
        try:
            blocks = upload_blocks(job.upload.path, recogniser.rate, self._seconds)
            while not job.cancelled.is_set():
                with self._reading:
                    block = next(blocks, None)
                if block is None:
                    break
                for part in cutter.push(block):
                    self._give(job, part.samples)
            for part in cutter.finish():
                self._give(job, part.samples)
            self._give(job, None)
        except Exception as error:
            self._give(job, error)

    def _give(self, job: _Job, item: _Item) -> None:
        """Put what was read where the decoding thread finds it."""
        while not job.cancelled.is_set():
            try:
                job.ready.put(item, timeout=0.5)
            except Full:
                continue
            with self._changed:
                self._changed.notify_all()
            return

    def _part(self, job: _Job) -> bool:
        """Decode the next part of a job; whether it was the last."""
        samples = job.ready.get()
        if isinstance(samples, Exception):
            raise samples
        if samples is None:
            self._tell(Kind.EVENTS, job.number, {"done": True})
            return True
        upload, recogniser = job.upload, self._recogniser(job.upload.model)
        found = recogniser.transcribe_part(
            samples, job.end, name=NAME, language=upload.language, logprobs=upload.logprobs, words=upload.words
        )
        part = _part_of(found, samples, job.end, upload, recogniser)
        job.end = part.end
        self._tell(Kind.EVENTS, job.number, {"part": write_part(part)})
        return False


def _part_of(found: "Transcript", samples: np.ndarray, start: float, upload: Upload, recogniser: "Recogniser") -> Part:
    """What is told of a decoded part that begins at `start` seconds."""
    ends = set(recogniser.bundle.model.rules.eos)
    likely = speech(samples, recogniser.rate) if upload.activity else None
    segments = []
    for one in found.segments:
        heard = None
        if likely is not None:
            first = min(int((one.start - start) / _FRAME), len(likely) - 1)
            heard = float(likely[first : max(first + 1, round((one.end - start) / _FRAME))].mean())
        tokens = tuple(token for token in one.tokens if token not in ends)
        segments.append(Segment(one.start, one.end, one.text, one.words, tokens, one.mean_logprob, heard, start))
    logprobs = _logprobs(found, ends, recogniser) if upload.logprobs else ()
    return Part(found.text, found.audio_seconds, tuple(segments), logprobs, found.language)


def _logprobs(found: "Transcript", ends: set[int], recogniser: "Recogniser") -> tuple[TokenLogprob, ...]:
    """The tokens of a text with their log probabilities. A token that ends within a character has no text yet; the one
    that completes it has all of it."""
    said, before, listed = list[int](), "", list[TokenLogprob]()
    for token, logprob in zip(found.tokens, found.trace.logprobs):
        if token in ends:
            continue
        said.append(token)
        text = recogniser.bundle.model.decode(said)
        whole = text.startswith(before) and not text.endswith("\N{REPLACEMENT CHARACTER}")
        listed.append(TokenLogprob(text[len(before) :] if whole else "", logprob))
        before = text if whole else before
    return tuple(listed)


def main(given: Sequence[str] | None = None) -> int:
    """Run the process: `--fd N --model NAME=MODEL ... --device D --seconds S --nice N`."""
    parser = argparse.ArgumentParser(prog="speechmtp.server.transcriber", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the socket to the front")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=MODEL", help="a model; may be repeated")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=7200.0, help="the most seconds of a recording")
    parser.add_argument("--nice", type=int, default=NICE, help=f"by how much others go first (default {NICE})")
    args = parser.parse_args(given)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    os.nice(args.nice)
    torch.set_num_threads(1)
    models = dict(one.split("=", 1) for one in args.model)
    Transcriber(socket.socket(fileno=args.fd), models, args.device, args.seconds).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
