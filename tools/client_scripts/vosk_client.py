"""The client in the vosk package that speaks to a vosk-server, as `vosk-transcriber -s` does: its own code, at an address
of ours and without ffmpeg before it. Arguments: part, address, WAV, speed."""

import asyncio
import sys
from types import SimpleNamespace

import websockets.exceptions
from recording import Recording, tell, tell_version
from vosk.transcriber import transcriber


class Process:
    """Stands in for ffmpeg: gives samples at `speed` times real time."""

    def __init__(self, recording: Recording, speed: float) -> None:
        self.stdout, self._recording, self._at, self._speed = self, recording, 0, speed

    async def read(self, size: int) -> bytes:
        """The next bytes."""
        await asyncio.sleep(size / 2 / self._recording.rate / self._speed)
        piece = self._recording.data[self._at : self._at + size]
        if self._at == 0:
            tell(begun=True)
        self._at += size
        return piece


async def main(part: str, address: str, path: str, speed: str) -> None:
    """Run it."""
    tell_version("vosk")
    client = transcriber.Transcriber.__new__(transcriber.Transcriber)  # without its own model
    client.args = SimpleNamespace(server=address.replace("http", "ws", 1), output_type="txt")
    try:
        found, _ = await client.recognize_stream_server(Process(Recording(path), float(speed)))
    except websockets.exceptions.InvalidStatus as error:
        tell(refused=error.response.status_code)
        return
    tell(text=" ".join(client.format_result(found).split()))


asyncio.run(main(*sys.argv[1:]))
