"""speech tokens of audio, and audio of speech tokens"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.cli.options import add_data_options, add_device_options
from speechmtp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from speechmtp.codec.unit25 import Unit25Codec
    from speechmtp.data.kaldi import DataDir

TABLE = "tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp codec`."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, help="which way")
    encode = kinds.add_parser("encode", help="tokens of recordings whose units and spans are known")
    encode.add_argument("audio", metavar="AUDIO|DATA", help="24 kHz audio, or a data directory with phones and frames")
    encode.add_argument("--phones", metavar="TEXT", help="what is said, in misaki's symbols; with AUDIO")
    encode.add_argument("--frames", metavar="NUMBERS",
                        help="how many 25 ms each symbol lasts, one more number at both ends; with AUDIO")  # fmt: skip
    encode.add_argument("--out", metavar="FILE", help="JSON that is written; of DATA the table (default DATA/tokens)")
    decode = kinds.add_parser("decode", help="audio of tokens")
    decode.add_argument("tokens", metavar="FILE|DATA", help="JSON that `encode` wrote, or a data directory with tokens")
    decode.add_argument("--out", required=True, metavar="FILE", help="audio file; of DATA a folder for one of each")
    decode.add_argument("--seed", type=int, default=0, help="seed of the noise in speech (default 0)")
    for one in (encode, decode):
        one.add_argument("--codec", metavar="FOLDER", help="codec folder (default: that of the voice heart)")
        add_device_options(one)
        add_data_options(one)


def run(args: argparse.Namespace) -> int:
    """Encodes or decodes."""
    from speechmtp.cli.checks import check_device
    from speechmtp.codec.folder import default_codec, load_codec

    check_device(args)
    codec = load_codec(Path(args.codec) if args.codec else default_codec())
    if args.kind == "encode":
        return _encode_data(args, codec) if Path(args.audio).is_dir() else _encode_file(args, codec)
    return _decode_data(args, codec) if Path(args.tokens).is_dir() else _decode_file(args, codec)


def _encode_file(args: argparse.Namespace, codec: "Unit25Codec") -> int:
    from speechmtp.audio.io import read_audio
    from speechmtp.training.tasks.tts_data import spans_of

    if args.phones is None or args.frames is None or args.out is None:
        raise ConfigError("codec encode: an audio file needs --phones, --frames and --out; give them")
    spans = spans_of(args.phones, args.frames, "--phones")
    samples, rate = read_audio(args.audio, rate=None)
    if rate != codec.rate:
        raise DataError(f"{args.audio}: {rate} Hz, expected {codec.rate}; resample it first")
    tokens = codec.encode(samples, spans)
    stored = {"phones": args.phones, "frames": args.frames, "tokens": tokens.tolist()}
    Path(args.out).write_text(json.dumps(stored, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(tokens)} tokens, {len(set(tokens.tolist()))} of {codec.size} ids")
    return 0


def _encode_data(args: argparse.Namespace, codec: "Unit25Codec") -> int:
    from speechmtp.data.tables import write_table
    from speechmtp.progress import track

    if args.phones is not None or args.frames is not None:
        raise ConfigError("codec encode: --phones and --frames go with an audio file; a data directory has its own")
    data, spans = _data(args, args.audio)
    table = {}
    for key in track(list(spans), "encoding"):
        samples = data[key].load(codec.rate, args.allow_pipes)
        try:
            table[key] = " ".join(map(str, codec.encode(samples, spans[key]).tolist()))
        except DataError as error:
            raise DataError(f"{data[key].origin}: {key}: {error}") from error
    out = Path(args.out) if args.out else data.path / TABLE
    write_table(out, table)
    count = sum(one.tokens for one in spans.values())
    print(f"{out}: {len(table)} of {len(data)} utterances, {count} tokens")
    return 0


def _decode_file(args: argparse.Namespace, codec: "Unit25Codec") -> int:
    from speechmtp.audio.io import write_audio
    from speechmtp.training.tasks.tts_data import spans_of

    path = Path(args.tokens)
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        phones, frames = str(stored["phones"]), str(stored["frames"])
        tokens = [int(token) for token in stored["tokens"]]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; give the file that `codec encode` wrote") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: no phones, frames and tokens in JSON; give the file that `codec encode` wrote"
        ) from error
    spans = spans_of(phones, frames, f"{path}: phones")
    samples = codec.decode(tokens, spans, args.seed)
    write_audio(args.out, samples, codec.rate)
    print(f"{args.out}: {len(samples) / codec.rate:.2f} s")
    return 0


def _decode_data(args: argparse.Namespace, codec: "Unit25Codec") -> int:
    from speechmtp.audio.io import write_audio
    from speechmtp.progress import track
    from speechmtp.training.tasks.codec_data import read_recordings

    data, _ = _data(args, args.tokens)
    recordings = read_recordings(data, data.path / TABLE, codec.size)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for one in track(recordings, "decoding"):
        write_audio(
            out / f"{one.utterance.id}.wav", codec.decode(one.tokens.tolist(), one.spans, args.seed), codec.rate
        )
    seconds = sum(one.spans.samples for one in recordings) / codec.rate
    print(f"{out}: {len(recordings)} utterances, {seconds:.1f} s")
    return 0


def _data(args: argparse.Namespace, folder: str) -> tuple["DataDir", dict[str, Any]]:
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.training.tasks.tts_data import read_spans

    data = read_data_dir(folder, args.root, need_text=False, allow_pipes=args.allow_pipes)
    return data, read_spans(data)
