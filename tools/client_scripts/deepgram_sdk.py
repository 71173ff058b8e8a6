"""The deepgram-sdk package: live transcription, and a file over HTTP. Arguments: part, address, WAV, speed."""

import asyncio
import sys

from deepgram import AsyncDeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment
from deepgram.listen.v1.types import ListenV1Metadata, ListenV1Results
from recording import Recording, tell, tell_version


def made(address: str) -> AsyncDeepgramClient:
    """A client of a server at this address."""
    socket = address.replace("http", "ws", 1)
    environment = DeepgramClientEnvironment(base=address, production=socket, agent=socket, agent_rest=address)
    return AsyncDeepgramClient(api_key="none", environment=environment)


async def live(address: str, path: str, speed: float) -> None:
    """Send pieces, finalize, close the stream, and gather what is final."""
    recording = Recording(path)
    said, metadata = list[str](), list[ListenV1Metadata]()

    def heard(message: object) -> None:
        if isinstance(message, ListenV1Metadata):
            metadata.append(message)
        elif isinstance(message, ListenV1Results):
            ListenV1Results.model_validate(message.model_dump())
            if message.is_final and message.channel.alternatives[0].transcript:
                said.append(message.channel.alternatives[0].transcript)
        else:
            raise RuntimeError(f"unexpected {message!r}")

    options = {"model": "nova-3", "encoding": "linear16", "sample_rate": str(recording.rate), "punctuate": "true"}
    async with made(address).listen.v1.connect(**options, interim_results="true") as connection:
        connection.on(EventType.MESSAGE, heard)
        listener = asyncio.create_task(connection.start_listening())
        async for piece in recording.pieces(speed):
            await connection.send_media(piece)
        await connection.send_finalize()
        await connection.send_close_stream()
        await listener
    assert len(metadata) == 1, metadata
    assert abs(metadata[0].duration - recording.seconds) < 0.01, metadata
    tell(text=" ".join(said))


async def file(address: str, path: str) -> None:
    """Upload the file."""
    tell(begun=True)
    with open(path, "rb") as given:
        found = await made(address).listen.v1.media.transcribe_file(
            request=given.read(), model="nova-3", smart_format=True
        )
    tell(text=found.results.channels[0].alternatives[0].transcript)


async def main(part: str, address: str, path: str, speed: str) -> None:
    """Run a part."""
    tell_version("deepgram-sdk")
    try:
        await (live(address, path, float(speed)) if part == "live" else file(address, path))
    except ApiError as error:
        tell(refused=error.status_code)


asyncio.run(main(*sys.argv[1:]))
