"""The openai package: realtime transcription, a file over HTTP, and the same streamed. Arguments: part, address, WAV,
speed."""

import asyncio
import base64
import sys

import openai
from recording import Recording, resampled, tell, tell_version


async def realtime(address: str, path: str, speed: float) -> None:
    """Append pieces, commit at the end, and wait for the one answer."""
    recording = Recording(path)
    client = openai.AsyncOpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0)
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        await connection.session.update(
            session={
                "type": "transcription",
                "audio": {"input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": None}},
            }
        )

        async def send() -> None:
            async for piece in recording.pieces(speed):
                audio = base64.b64encode(resampled(piece, recording.rate, 24000)).decode()
                await connection.input_audio_buffer.append(audio=audio)
            await connection.input_audio_buffer.commit()

        sender = asyncio.create_task(send())
        deltas = ""
        async for event in connection:
            if event.type == "error":
                raise RuntimeError(event.error.message)
            if event.type == "conversation.item.input_audio_transcription.delta":
                deltas += event.delta or ""
            if event.type == "conversation.item.input_audio_transcription.completed":
                assert deltas == event.transcript, (deltas, event.transcript)
                tell(text=event.transcript)
                break
        await sender


async def http(address: str, path: str, streamed: bool) -> None:
    """Upload the file."""
    client = openai.AsyncOpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0)
    tell(begun=True)
    with open(path, "rb") as file:
        if not streamed:
            found = await client.audio.transcriptions.create(model="whisper-1", file=file)
            tell(text=found.text)
            return
        deltas = ""
        stream = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=file, stream=True)
        async for event in stream:
            if event.type == "transcript.text.delta":
                deltas += event.delta
            elif event.type == "transcript.text.done":
                assert deltas == event.text, (deltas, event.text)
                tell(text=event.text)


async def verbose(address: str, path: str) -> None:
    """Upload the file and ask for times of words: the package's own types check every field."""
    client = openai.AsyncOpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0)
    tell(begun=True)
    with open(path, "rb") as file:
        found = await client.audio.transcriptions.create(
            model="whisper-1", file=file, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
    type(found).model_validate(found.model_dump())
    assert found.words and found.segments, found
    assert all(word.start <= word.end for word in found.words)
    tell(text=found.text)


async def main(part: str, address: str, path: str, speed: str) -> None:
    """Run a part."""
    tell_version("openai")
    try:
        if part == "realtime":
            await realtime(address, path, float(speed))
        elif part == "verbose":
            await verbose(address, path)
        else:
            await http(address, path, streamed=part == "streamed")
    except openai.APIStatusError as error:
        tell(refused=error.status_code)
    except Exception as error:
        response = getattr(error, "response", None)
        if getattr(response, "status_code", None) is None:
            raise
        tell(refused=response.status_code)


asyncio.run(main(*sys.argv[1:]))
