"""A stream of recognition that decodes as audio is fed."""

import numpy as np

from speechmtp.recognition import RecognitionModel
from speechmtp.streaming.checkpoint import Checkpoint
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.events import StreamEvent
from speechmtp.streaming.passes import run_passes, strategy_of
from speechmtp.streaming.session import Session
from speechmtp.transcripts import Transcript


class RecognitionStream:
    """Live recognition of one recording: feed audio as it arrives, and read the events that are returned. Events and
    transcript do not depend on the pieces in which the audio is fed.

    >>> import speechmtp
    >>> from speechmtp.audio.io import read_audio
    >>> stream = speechmtp.load("default", device="cpu").create_stream()
    >>> samples, rate = read_audio(speechmtp.example("reading"))
    >>> for start in range(0, len(samples), rate // 10):
    ...     for event in stream.feed(samples[start : start + rate // 10], rate):
    ...         pass  # Committed, Tail, ...
    >>> events = stream.finish()
    >>> print(stream.result())
    I opened my eyes upon a strange and weird landscape. I knew that I was on Mars.
    """

    def __init__(
        self, model: RecognitionModel, config: StreamConfig | None = None, language: str = "", task: str = "",
        resume: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        """`resume` goes on where the session of another one was lost."""
        self.session = Session(model, config, language, task, resume)
        self._model, self._strategy = model, strategy_of(model, self.session.config.strategy)

    def feed(self, samples: np.ndarray, rate: float | None = None) -> list[StreamEvent]:
        """Take samples [n] at `rate` Hz and return what arose; see `Session.feed` for what it refuses."""
        self.session.feed(samples, rate)
        return self._run()

    def flush(self) -> list[StreamEvent]:
        """End the segment here; the last event is the Final that answers."""
        self.session.flush()
        return self._run()

    def finish(self) -> list[StreamEvent]:
        """End the stream; the last event is Ended."""
        self.session.finish()
        return self._run()

    def result(self) -> Transcript:
        """The transcript of the segments that have ended."""
        return self.session.result()

    def _run(self) -> list[StreamEvent]:
        while (due := self.session.next_pass()) is not None:
            run_passes(self._model, self._strategy, [(self.session, due)])
        return self.session.events()
