"""How natural does a row sound? Two predictors of a listener's opinion, by file: DistillMOS and DNSMOS (overall).

    pip install --no-deps --target peers distillmos==0.9.1 xls-r-sqa==0.1.0 torchaudio speechmos==0.0.1.1
    PEERS=peers python tools/voice_eval/mos.py ROW --out ROW/mos.json --first 50 --texts sentences.txt

Files are resampled to 16 kHz. Both predictors were trained on other speech than this: they rank systems, and are no
listeners.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rows import samples_of, texts_of, wav_files, with_peers, write_json

from speechmtp.audio.torchaudio_compat import import_torchaudio
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.progress import track


@lru_cache(maxsize=1)
def distillmos() -> Callable[[np.ndarray], float]:
    """The predictor of DistillMOS, of samples [N] at 16 kHz."""
    import torch

    if import_torchaudio() is None:
        raise ConfigError("distillmos: torchaudio is not installed, expected it in PEERS; see --help")
    from distillmos import ConvTransformerSQAModel

    with contextlib.redirect_stdout(io.StringIO()):
        model = ConvTransformerSQAModel().eval()

    @torch.inference_mode()
    def predict(samples: np.ndarray) -> float:
        return float(model(torch.from_numpy(samples)[None]))

    return predict


def dnsmos() -> Callable[[np.ndarray], float]:
    """The predictor of DNSMOS P.835's overall quality, of samples [N] at 16 kHz."""
    from speechmos import dnsmos as package

    def predict(samples: np.ndarray) -> float:
        return float(package.run(samples, 16000)["ovrl_mos"])

    return predict


def measure(files: Mapping[str, Path]) -> dict[str, Any]:
    """Both predictions of every file, and their means."""
    predictors = {"distillmos": distillmos(), "dnsmos": dnsmos()}
    found: dict[str, dict[str, float]] = {name: {} for name in predictors}
    for utterance in track(list(files), "opinions"):
        samples = samples_of(files[utterance])
        for name, predict in predictors.items():
            found[name][utterance] = round(predict(samples), 4)
    means = {name: round(float(np.mean(list(values.values()))), 4) for name, values in found.items()}
    return {"files": len(files), "mean": means, **found}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", help="folder with <id>.wav")
    parser.add_argument("--texts", default="", help="file of lines `id text` that names the files (default: all)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first N of the texts (default: all)")
    parser.add_argument("--out", default="", metavar="JSON")
    args = parser.parse_args(argv)
    with_peers()
    try:
        names = list(texts_of(args.texts, args.first)) if args.texts else []
        files = wav_files(args.row, names)
        found = measure(dict(list(files.items())[: args.first or None]))
    except ImportError as error:
        print(f"mos: error: {error}; expected it in the folder PEERS, see --help", file=sys.stderr)
        return 2
    except SpeechMTPError as error:
        print(f"mos: error: {error}", file=sys.stderr)
        return 2
    if args.out:
        write_json(args.out, found)
    print(f"{args.row}: DistillMOS {found['mean']['distillmos']:.3f}, DNSMOS {found['mean']['dnsmos']:.3f}, "
          f"{found['files']} files")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
