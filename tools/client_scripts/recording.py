"""What the scripts of all clients share: a recording in pieces, and what they tell `tools/clients.py`, a JSON line each."""

import asyncio
import json
import sys
import time
import wave
from collections.abc import AsyncIterator
from importlib.metadata import version

PIECE = 0.05  # seconds


class Recording:
    """16-bit mono samples of a WAV file, and `silence` seconds behind them."""

    def __init__(self, path: str, silence: float = 0.0) -> None:
        with wave.open(path) as file:
            self.rate = file.getframerate()
            self.data = file.readframes(file.getnframes()) + bytes(2 * round(silence * self.rate))

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.data) / 2 / self.rate

    async def pieces(self, speed: float) -> AsyncIterator[bytes]:
        """Pieces at `speed` times real time; that it has begun is told with the first."""
        size, begun = 2 * round(PIECE * self.rate), time.monotonic()
        for number, start in enumerate(range(0, len(self.data), size)):
            await asyncio.sleep(max(0.0, begun + number * PIECE / speed - time.monotonic()))
            yield self.data[start : start + size]
            if number == 0:
                tell(begun=True)


def tell(**fields: object) -> None:
    """Write a line for the caller: `begun`, `text` (a final one), `refused`, or `version`."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def tell_version(package: str) -> None:
    """The version of the client's package."""
    tell(version=f"{package} {version(package)}")


def resampled(data: bytes, rate: int, other: int) -> bytes:
    """Samples at another rate, by straight lines: enough for speech that goes up in rate."""
    import array

    given = array.array("h", data)
    count = len(given) * other // rate
    made = array.array("h", bytes(2 * count))
    for place in range(count):
        at = place * rate / other
        left = int(at)
        right = min(left + 1, len(given) - 1)
        made[place] = round(given[left] + (given[right] - given[left]) * (at - left))
    return made.tobytes()
