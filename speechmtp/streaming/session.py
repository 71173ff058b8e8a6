"""A session of live recognition: audio and flushes go in, decoding passes come out to be run, and events arise.

No clock, thread or socket is in it, and it runs no model but the one that tells speech. Audio is looked at in frames of
32 ms, and a pass is due at the same samples however the audio arrived, so that what is said does not depend on it.
"""

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from speechmtp.audio.activity import FRAME, RATE, load_activity
from speechmtp.audio.endpoint import ActivityDetector
from speechmtp.audio.inputs import checked_rate
from speechmtp.audio.levels import check_floats
from speechmtp.audio.resampling import StreamResampler
from speechmtp.errors import ConfigError, DataError
from speechmtp.heap import give_back
from speechmtp.recognition import RecognitionModel
from speechmtp.streaming.agreement import Agreement
from speechmtp.streaming.checkpoint import Checkpoint, OpenWindow
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.events import (
    Committed,
    Ended,
    Final,
    Reason,
    SpeechStarted,
    SpeechStopped,
    StreamEvent,
    Tail,
)
from speechmtp.streaming.history import History
from speechmtp.streaming.window import Pass, Window
from speechmtp.transcripts import Segment, Transcript
from speechmtp.types import Request, Result, Trace, sum_traces
from speechmtp.words.word import Word

CUT_WITHIN = 5.0  # seconds before the end of a full window in which it may be cut
TIDY = 30.0  # seconds of audio after which memory that passes have freed is given back to the system


@dataclass(frozen=True)
class _Mark:
    """A flush, or the end, at a sample."""

    at: int
    flush: int | None


class Session:
    """One stream of audio and what is said in it.

    `feed` takes audio, `flush` and `finish` mark places in it. `next_pass` looks at the audio up to the next place at
    which a window has to be decoded and returns that pass; `take` has its result. `events` returns what arose. Between
    `next_pass` and `take` nothing else is looked at.

    With the `checkpoint` of a lost session and the audio from there, another one goes on (`resume`): no committed word
    is said again or taken back. Flushes that were not answered are to be given again.
    """

    def __init__(
        self, model: RecognitionModel, config: StreamConfig | None = None, language: str = "", task: str = "",
        resume: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        self.config = config or StreamConfig()
        self.step = self.config.step  # seconds; an engine under load makes it longer
        self.language, self.task = language, task
        self._model = model
        self._frame = FRAME * model.rate / RATE  # samples
        self._audio = History()
        self._marks: deque[_Mark] = deque()
        self._flushes = 0
        self._resampler: StreamResampler | None = None
        self._given: float | None = None  # the rate of what is fed
        self._closed = False
        self._activity = load_activity().stream()
        self._detector = ActivityDetector(self.config.activity)
        self._to_activity = None if model.rate == RATE else StreamResampler(model.rate, RATE)
        self._frames = 0  # looked at
        self._window: Window | None = None
        self._now = 0.0  # seconds looked at
        self._seconds_decoding = self._seconds_listening = 0.0
        self._tidied = 0.0  # when memory was given back
        self._free = 0  # the sample before which no window begins
        self._ended = 0  # the sample with which the last segment ended
        self._spoken = False  # whether anything was committed, so that a space stands before the next word
        self._due: Pass | None = None
        self._events: list[StreamEvent] = []
        self._segments: list[Segment] = []
        self._trace = Trace(finished=True)
        self.passes = 0  # decoded so far
        self._stop_said = False  # whether the end of speech was said before the session was resumed
        if resume is not None:
            self._resume(resume)

    # Input

    def feed(self, samples: np.ndarray, rate: float | None = None) -> None:
        """Take samples [n], floats in [-1, 1], at `rate` Hz (default: the model's).

        ConfigError for another rate than before or one that is no rate, and after `finish`; DataError for several
        channels or samples that are not finite or far beyond 1. The session is as before then.
        """
        if self._closed:
            raise ConfigError("stream: audio after finish(), expected none; open another stream")
        own = float(self._model.rate if rate is None else checked_rate(rate, "stream"))
        if self._given not in (None, own):
            raise ConfigError(f"stream: audio at {own:g} Hz, {self._given:g} Hz before; give one rate")
        samples = np.asarray(samples)
        if samples.ndim != 1:
            raise DataError(f"stream: samples of shape {samples.shape}, expected one channel [n]; mix them before")
        samples = samples.astype(np.float32)
        if not np.isfinite(samples).all():
            raise DataError("stream: samples that are not finite numbers, expected floats in [-1, 1]; leave them out")
        check_floats("stream", samples)
        if self._given is None:
            self._resampler = None if own == self._model.rate else StreamResampler(own, self._model.rate)
            self._given = own
        self._audio.append(samples if self._resampler is None else self._resampler.push(samples))

    def flush(self) -> int:
        """End the segment here; its Final has this flush's number, which is returned. ConfigError after `finish`."""
        if self._closed:
            raise ConfigError("stream: flush() after finish(), expected none; open another stream")
        self._drain()
        self._flushes += 1
        self._marks.append(_Mark(self._audio.end, self._flushes))
        return self._flushes

    def finish(self) -> None:
        """End the stream here. ConfigError if it is finished already."""
        if self._closed:
            raise ConfigError("stream: finish() twice, expected once; open another stream")
        self._drain()
        self._closed = True
        self._marks.append(_Mark(self._audio.end, None))

    def _drain(self) -> None:
        """Take what the resampler still holds."""
        if self._resampler is not None:
            self._audio.append(self._resampler.finish())
            self._resampler.reset()

    @property
    def received(self) -> float:
        """Seconds of audio that can be looked at; a resampler may hold a little more."""
        return self._seconds(self._audio.end)

    @property
    def position(self) -> float:
        """Seconds of audio that were looked at."""
        return self._now

    @property
    def marked(self) -> bool:
        """Whether a flush or the end waits."""
        return bool(self._marks)

    @property
    def trace(self) -> Trace:
        """The counts of all passes so far."""
        return self._trace

    # Passes

    def next_pass(self) -> Pass | None:
        """The pass to decode before more audio is looked at; None if all audio was looked at."""
        while self._due is None:
            mark, end = self._marks[0] if self._marks else None, self._edge(self._frames + 1)
            if mark is not None and mark.at < end:
                self._marks.popleft()
                self._stop_at(mark)
            elif end <= self._audio.end:
                self._look(end)
            else:
                break
        return self._due

    def renew(self) -> Pass | None:
        """Replace the pass that is due, and does not end its segment, by one over all audio that is there, or by the
        one that ends the segment, if it ends in there."""
        self._due, step, self.step = None, self.step, math.inf
        self.next_pass()
        self.step, window, end = step, self._window, self._edge(self._frames)
        if self._due is None and window is not None and end - window.start >= self._least:
            self._ask(end)
        return self._due

    def _edge(self, frame: int) -> int:
        """The sample with which a frame begins."""
        return round(frame * self._frame)

    def _frame_of(self, sample: int) -> int:
        """The frame that has a sample."""
        return int((sample + 0.5) / self._frame)

    def _seconds(self, sample: int) -> float:
        return sample / self._model.rate

    def _look(self, end: int) -> None:
        """Look at the next frame, which ends with sample `end`."""
        samples = self._audio.cut(self._edge(self._frames), end)
        self._frames, self._now = self._frames + 1, self._seconds(end)
        if self._to_activity is not None:
            samples = self._to_activity.push(samples)
        for probability in self._activity.push(samples):
            change = self._detector.push(probability)
            edge = 0 if change is None else min(end, self._edge(change.frame))
            if change is not None and change.kind == "started":
                run = self._detector.run
                window = self._open(max(self._free, edge), self._frames - run, self._frames - 1)
                speech = end - self._edge(run)
                window.heard = max(window.heard, speech)
                self._events.append(SpeechStarted(self._seconds(speech), self._now))
            if self._window is not None and self._frames > self._window.first:
                self._window.activity.append(probability)
            if change is not None and change.kind == "stopped":
                speech = end - self._edge(self._detector.pause)
                if not self._stop_said:
                    self._events.append(SpeechStopped(self._seconds(speech), self._now))
                self._stop_said = False
                if self._window is not None and self._due is None:
                    self._ask(edge, "endpoint")
        if self._window is not None and self._due is None:
            self._consider(self._window, end)
        start = self._candidate if self._window is None else self._window.start
        self._audio.forget(self._edge(self._frame_of(start)))

    def _open(self, start: int, spoken: int, first: int) -> Window:
        """Begin a segment with sample `start`; its first pass is due a step behind the sample `heard`. Speech starts
        with frame `spoken`, or ended before it; the activity is kept from frame `first` on."""
        model, config = self._model.bundle.model, self.config
        agreement = Agreement(model.decode, model.rules.eos, config.passes, config.sure, config.patience)
        self._window = Window(start, agreement, model.decode, self._frame_of(start) - spoken, first)
        return self._window

    @property
    def _candidate(self) -> int:
        """The sample with which a window would begin if speech has just begun."""
        return max(self._free, self._edge(self._detector.candidate))

    def _consider(self, window: Window, end: int) -> None:
        """Ask for a pass over a window that has reached sample `end`, if one is due."""
        config = self.config
        length, pause = self._seconds(end - window.start), self._seconds(self._edge(self._detector.pause))
        if length >= min(config.longest, self._model.longest):
            self._ask(self._unlikely(window, end), "full")
        elif length >= config.shortest and pause >= config.needed_pause(length):
            middle = max(end - round(pause * self._model.rate / 2), self._known(window))
            self._ask(end, "pause", after=middle)
        elif self._seconds(end - window.heard) >= self.step and end - window.start >= self._least:
            self._ask(end)

    def _unlikely(self, window: Window, end: int) -> int:
        """The sample at which a full window is cut: where speech is least likely behind its committed words, in the
        last seconds of it."""
        begin = max(window.start, end - round(CUT_WITHIN * self._model.rate), self._known(window))
        likely = window.activity[-max(1, int((end - begin) / self._frame)) :]
        place = len(likely) - 1 - likely[::-1].index(min(likely))  # the latest of several
        return end - round((len(likely) - place - 0.5) * self._frame)

    def _known(self, window: Window) -> int:
        """A sample behind the committed words: the end of the last one, or that of the pass before the last one, which
        has said them too."""
        last = window.words[-1].end if window.words else None
        return window.before if last is None else round(last * self._model.rate)

    def _stop_at(self, mark: _Mark) -> None:
        """End the segment at a flush or the end of the stream."""
        self._now = self._seconds(mark.at)
        reason: Reason = "finish" if mark.flush is None else "flush"
        if self._window is not None:
            self._ask(mark.at, reason, mark.flush)
        elif mark.flush is None:
            self._end()
        else:
            self._events.append(Final("", (), self._now, self._now, reason, self._now, mark.flush))

    def _end(self) -> None:
        self._events.append(Ended(self._now))

    def _ask(self, end: int, reason: Reason | None = None, flush: int | None = None, after: int | None = None) -> None:
        """Let the window be decoded up to sample `end`; another one may begin with sample `after` (default: there)."""
        window = self._window
        assert window is not None
        tokens, samples = window.agreement, self._audio.cut(window.start, end)
        known = tuple(tokens.committed), tuple(tokens.tail)
        due = Pass(samples, window.start, end, *known, end if after is None else after, reason, flush)
        self._due = due
        if len(samples) < self._least or self._silent(window):
            self.take(due, None, None)

    def _silent(self, window: Window) -> bool:
        """Whether no frame of a window is speech: where one ended in a pause before silence did, by a flush, what is
        behind it may be nothing else, and words would be made up of it."""
        last = self._detector.last_speech
        return not window.agreement.tail and (last is None or last < self._frame_of(window.start))

    @property
    def _least(self) -> int:
        """Samples that the encoder needs."""
        return self._model.bundle.model.shortest

    # Results

    def take(self, due: Pass, request: Request | None, result: Result | None) -> None:
        """Take in the result of the pass that is due; None for a window that is too short to decode or silent."""
        window, config = self._window, self.config
        assert window is not None and due is self._due
        self._due, window.before, window.heard = None, window.heard, due.end
        tokens = window.agreement
        if request is not None:
            self._seconds_listening += request.listen_seconds
        if result is not None:
            tokens.take(result.tokens, result.trace.logprobs)
            self.passes += 1
            self._trace = sum_traces([self._trace, result.trace])
            self._seconds_decoding += result.seconds
        doubted = window.doubted(config.activity_floor, config.confidence_floor)
        if not doubted:
            self._commit(window, due, request)
        if due.reason is None:
            self._say_tail(window)
        else:
            self._close(window, due, due.reason, doubted)

    def _commit(self, window: Window, due: Pass, request: Request | None) -> None:
        """Say the words that are committed now, and what else their tokens add to the text."""
        tokens = window.agreement
        whole = [*tokens.committed, *tokens.tail]
        words = tokens.commit(final=due.reason is not None)
        timed = [Word(word.text, None, None, tokens.confidence(word)) for word in words]
        if words and self.config.words and request is not None:
            first = [word.first for word in tokens.words].index(words[0].first)
            found = self._model.time_words(request, whole, tokens.logprobs)[first : first + len(words)]
            start, last = self._seconds(window.start), window.words[-1].end if window.words else None
            timed = [replace(one.moved(start).not_before(last), text=word.text) for one, word in zip(found, words)]
        text = window.commit(timed)
        if text:
            text = f" {text}" if self._spoken and text == window.said else text
            self._spoken = True
            self._events.append(Committed(text, tuple(timed), self._now))

    def _say_tail(self, window: Window) -> None:
        """Say the words that may change, if they have changed."""
        tail = window.new_tail()
        if tail is not None:
            before = " " if self._spoken and not window.said and tail else ""
            self._events.append(Tail(before + tail, self._now))

    def _close(self, window: Window, due: Pass, reason: Reason, dropped: bool) -> None:
        """End the segment."""
        window.finish()
        start, end = self._seconds(max(window.start, self._ended)), self._seconds(due.end)
        text, words, dropped = window.said.strip(), tuple(window.words), dropped and bool(window.agreement.tail)
        self._events.append(Final(text, words, start, end, reason, self._now, due.flush, dropped))
        if self.config.keep:
            self._segments += window.segments(start, end)
        self._free, self._ended, self._window = due.after, due.end, None
        if self._now - self._tidied >= TIDY:
            give_back()
            self._tidied = self._now
        if reason == "finish":
            self._end()
        elif self._detector.speaking:
            spoken = (self._detector.last_speech or 0) + 1
            self._open(due.after, min(spoken, self._frame_of(due.after)), self._frames)

    def events(self) -> list[StreamEvent]:
        """What arose since the last call."""
        found, self._events = self._events, []
        return found

    def checkpoint(self) -> Checkpoint:
        """Where another session can go on, after all events that were returned."""
        window, rate = self._window, self._model.rate
        start = self._candidate if window is None else window.start
        at, stopped = self._edge(self._frame_of(start)), self._stop_said or not self._detector.speaking
        opened = None if window is None else OpenWindow.of(window, rate, self._frame_of(start), stopped)
        ended = max(0, self._ended - at) / rate
        return Checkpoint(self._seconds(at), self._seconds(start - at), ended, self._spoken, opened)

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Go on where another session was."""
        window, rate = checkpoint.window, self._model.rate
        self._free, self._ended = round(checkpoint.free * rate), round(checkpoint.ended * rate)
        self._spoken = checkpoint.spoken
        if window is not None:
            window.restore(self._open(self._free, 0, 0), rate)
            self._detector.go_on(window.pause)
            self._stop_said = window.stopped

    def result(self) -> Transcript:
        """The transcript of the segments that have ended, with the counts of all passes so far."""
        text, seconds = " ".join(one.text for one in self._segments), (self._seconds_decoding, self._seconds_listening)
        return Transcript(text, tuple(self._segments), None, self._trace, *seconds)
