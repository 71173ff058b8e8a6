"""Pipecat's speech-to-text services of OpenAI (realtime) and Deepgram, in a pipeline. Arguments: part, address, speed,
WAV files."""

import asyncio
import os
import sys

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService
from pipecat.workers.runner import WorkerRunner
from recording import Recording, tell, tell_version

QUIET = float(os.environ.get("QUIET", "8"))  # seconds without a transcript after which nothing more is waited for


class Listener(FrameProcessor):
    """Keeps the transcripts that pass it."""

    def __init__(self) -> None:
        super().__init__()
        self.said = list[str]()
        self.heard = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Keep a transcript."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.said.append(frame.text)
            self.heard.set()
        await self.push_frame(frame, direction)


async def main(part: str, address: str, speed: str, *paths: str) -> None:
    """Run a part."""
    tell_version("pipecat-ai")
    socket = address.replace("http", "ws", 1)
    if part == "openai":
        service = OpenAIRealtimeSTTService(api_key="none", base_url=f"{socket}/v1/realtime")
    else:
        service = DeepgramSTTService(api_key="none", base_url=socket)
    listener, started = Listener(), asyncio.Event()
    worker = PipelineWorker(
        Pipeline([service, listener]),
        cancel_on_idle_timeout=False,
        params=PipelineParams(audio_in_sample_rate=16000, enable_metrics=False),
    )

    @worker.event_handler("on_pipeline_started")
    async def begun(worker: PipelineWorker, frame: Frame) -> None:
        started.set()

    @service.event_handler("on_error")
    async def failed(service: FrameProcessor, error: ErrorFrame) -> None:
        print(error.error, file=sys.stderr)
        if "503" in error.error:
            tell(refused=503)

    async def talk() -> None:
        await asyncio.wait_for(started.wait(), 20)
        for path in paths:
            recording = Recording(path)
            await worker.queue_frame(VADUserStartedSpeakingFrame())
            async for piece in recording.pieces(float(speed)):
                await worker.queue_frame(InputAudioRawFrame(piece, recording.rate, 1))
            await worker.queue_frame(VADUserStoppedSpeakingFrame())
        try:
            while True:
                listener.heard.clear()
                await asyncio.wait_for(listener.heard.wait(), QUIET)
        except TimeoutError:
            await worker.queue_frame(EndFrame())

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), talk())
    tell(text=" ".join(listener.said))


asyncio.run(main(*sys.argv[1:]))
