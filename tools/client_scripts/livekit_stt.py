"""LiveKit's speech-to-text plugins of OpenAI and Deepgram, live and for a whole recording. Arguments: part, address,
speed, WAV files."""

import asyncio
import contextlib
import os
import sys
from typing import Any

from livekit import rtc
from livekit.agents import APIError, stt
from livekit.agents.utils import http_context
from livekit.plugins import deepgram, openai
from recording import Recording, tell, tell_version

QUIET = float(os.environ.get("QUIET", "8"))  # seconds without an event after which nothing more is waited for


def frame(data: bytes, rate: int) -> rtc.AudioFrame:
    """Samples as LiveKit has them."""
    return rtc.AudioFrame(data, rate, 1, len(data) // 2)


async def live(made: stt.STT, paths: list[str], speed: float) -> None:
    """Push pieces with silence behind each recording, and gather final transcripts."""
    stream, said, heard = made.stream(), list[str](), asyncio.Event()

    async def listen() -> None:
        async for event in stream:
            heard.set()
            if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                said.append(event.alternatives[0].text)

    listener = asyncio.create_task(listen())
    for path in paths:
        recording = Recording(path, silence=1.5)
        async for piece in recording.pieces(speed):
            stream.push_frame(frame(piece, recording.rate))
            if listener.done():
                listener.result()
    stream.flush()
    with contextlib.suppress(TimeoutError):
        while not listener.done():
            heard.clear()
            await asyncio.wait_for(heard.wait(), QUIET)
    if listener.done():
        listener.result()
    await stream.aclose()
    listener.cancel()
    tell(text=" ".join(said))


async def whole(made: stt.STT, path: str) -> None:
    """Give the whole recording at once."""
    recording = Recording(path)
    tell(begun=True)
    found = await made.recognize(buffer=[frame(recording.data, recording.rate)])
    tell(text=found.alternatives[0].text)


async def main(part: str, address: str, speed: str, *paths: str) -> None:
    """Run a part."""
    kind, _, way = part.partition("-")
    tell_version(f"livekit-plugins-{kind}")
    async with http_context.open():
        made: Any
        if kind == "openai" and way == "commits":  # a model for which the plugin finds turns itself
            made = openai.STT(model="gpt-realtime-whisper", base_url=f"{address}/v1", api_key="none")
        elif kind == "openai":
            made = openai.STT(base_url=f"{address}/v1", api_key="none", use_realtime=way == "live")
        else:
            made = deepgram.STT(base_url=f"{address}/v1/listen", api_key="none")
        try:
            await (whole(made, paths[0]) if way == "whole" else live(made, list(paths), float(speed)))
        except APIError as error:
            tell(refused=getattr(error, "status_code", str(error)))
        await made.aclose()


asyncio.run(main(*sys.argv[1:]))
