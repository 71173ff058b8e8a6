"""Files of MP4 and Matroska for tests; they need PyAV."""

import io
from pathlib import Path

import numpy as np

RATE = 48000
TONE = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE).astype(np.float32) / 2


def written(kind: str, codec: str, channels: int = 1, file: Path | None = None) -> bytes:
    """Two seconds of a tone in a container; the second channel is silent."""
    import av

    data = io.BytesIO()
    layout = "mono" if channels == 1 else "stereo"
    options = {"movflags": "faststart"} if file else {}
    with av.open(str(file) if file else data, "w", format=kind, options=options) as container:
        track = container.add_stream(codec, rate=RATE, layout=layout)
        size = 1024 if codec == "aac" else 960
        for start in range(0, len(TONE), size):
            block = TONE[None, start : start + size]
            block = block if channels == 1 else np.concatenate([block, 0 * block])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = RATE, start
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return data.getvalue()
