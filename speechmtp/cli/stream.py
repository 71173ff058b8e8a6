"""words of a speechmtp server, or one like OpenAI's, as they are spoken: a file, the microphone, or what arrives"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from speechmtp.cli.live_view import view_for
from speechmtp.cli.streams import report
from speechmtp.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from websockets.sync.client import ClientConnection

    from speechmtp.cli.stream_figures import Figures

URL = "ws://127.0.0.1:8765"
RATE = 16000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp stream`."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="an audio file; - hears standard input as it arrives")
    parser.add_argument("--mic", action="store_true", help="hear the microphone")
    parser.add_argument("--url", default=URL, help=f"the server (default {URL})")
    parser.add_argument("--token", metavar="T", help="of a server that asks for one")
    parser.add_argument("--realtime-factor", type=float, metavar="X",
                        help="how fast a file is sent: 1 (default) as it was spoken, 2 twice as fast, 0 or inf as fast "
                        "as it is taken")  # fmt: skip
    parser.add_argument("--model", default="", metavar="NAME", help="of a server that has several; default: its first")
    parser.add_argument(
        "--language", default="", metavar="CODE", help="of the speech, such as de; default: the model's"
    )
    parser.add_argument(
        "--silence", type=float, metavar="S", help="seconds of silence that end a line (default: the server's)"
    )
    parser.add_argument(
        "--rate", type=float, metavar="HZ", help="FILE has 16-bit samples without a header at this rate"
    )
    parser.add_argument("--output", choices=("txt", "json"), default="txt",
                        help="txt (default): a line a segment; json: an event a line, latencies last")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Shows what the server says until the audio ends or Ctrl-C is pressed, the last words included, then how late it
    was. ConfigError for options that do not go together, DataError where the server is not there, is full, refuses the
    token or goes away."""
    from speechmtp.cli.stream_session import StreamSession
    from speechmtp.server.client import Realtime, address

    factor = _check(args)
    url = address(args.url)
    blocks = _blocks(args)
    realtime = Realtime(RATE, args.language, args.silence or 0.0, words=True, model=args.model)
    with connected(url, args.token) as socket:
        session, began = StreamSession(socket, realtime, url, factor), time.monotonic()
        try:
            session.follow(blocks, view_for(args.output, True))
        finally:
            if session.told:
                _tell(session.figures, args, time.monotonic() - began, factor)
    if session.failed:
        raise DataError(f"{url}: {len(session.failed)} segments were not recognised ({session.failed[0]})")
    return 0


def _tell(figures: "Figures", args: argparse.Namespace, seconds: float, factor: float) -> None:
    """Say how late it was."""
    if args.output == "json":
        row = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.row().items()}
        print(json.dumps({"event": "figures", **row}), flush=True)
    else:
        report(figures.line(factor == 1 or args.mic or not os.path.isfile(args.file), seconds))


def _check(args: argparse.Namespace) -> float:
    """How many times faster than spoken the audio is sent; 0: as fast as it goes. ConfigError for options that do not
    go together."""
    if args.mic == bool(args.file):
        raise ConfigError("stream: expected one of FILE, - for standard input, or --mic")
    if args.mic and args.rate is not None:
        raise ConfigError("--rate: the microphone tells its own; leave it out")
    if args.silence is not None and not 0 < args.silence <= 10:
        raise ConfigError(f"--silence {args.silence:g}: expected more than 0 and at most 10 seconds")
    arrives = args.mic or not os.path.isfile(args.file)
    if arrives and args.realtime_factor is not None:
        raise ConfigError("--realtime-factor: only for a file; what arrives is sent as it arrives")
    factor = args.realtime_factor if args.realtime_factor is not None else 0.0 if arrives else 1.0
    if math.isnan(factor) or factor < 0:
        raise ConfigError(f"--realtime-factor {factor:g}: expected a number from 0 on")
    return 0.0 if math.isinf(factor) else factor


def _blocks(args: argparse.Namespace) -> "Iterator[np.ndarray]":
    """The audio as float32 blocks [n] at `RATE`."""
    if args.mic:
        from speechmtp.audio.microphone import open_microphone

        return open_microphone(RATE)
    from speechmtp.audio.live import open_live
    from speechmtp.audio.raw import RawAudio

    if args.file != "-" and not os.path.exists(args.file):
        raise DataError(f"{args.file}: no such file, expected audio; check the path")
    return open_live(args.file, RATE, None if args.rate is None else RawAudio(args.rate))


def connected(url: str, token: str | None) -> "ClientConnection":
    """An open connection. DataError that says what the server's refusal means."""
    from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
    from websockets.sync.client import connect

    more: dict[str, Any] = {}
    if urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1"):
        more["proxy"] = None
    if token is not None:
        more["additional_headers"] = {"Authorization": f"Bearer {token}"}
    try:
        return connect(
            url, subprotocols=["realtime"], compression=None, max_size=None, ping_timeout=None, close_timeout=2, **more  # type: ignore[list-item]
        )  # fmt: skip
    except InvalidStatus as error:
        raise DataError(_refusal(url, error.response, token)) from error
    except (InvalidHandshake, InvalidURI, EOFError) as error:
        raise DataError(f"{url}: no websocket ({_line(error)}), expected speechmtp serve; check --url") from error
    except TimeoutError as error:
        raise DataError(f"{url}: no answer in time, expected speechmtp serve; check --url") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or _line(error)
        raise DataError(
            f"{url}: no connection ({reason}), expected speechmtp serve; start it, or check --url"
        ) from error


def _refusal(url: str, response: Any, token: str | None) -> str:
    """What an HTTP answer in place of a websocket means."""
    try:
        told = " ".join(str(json.loads(response.body)["error"]["message"]).split())
    except (ValueError, KeyError, TypeError):
        told = f"status {response.status_code}"
    if response.status_code == 401:
        return f"{url}: refused ({told}), expected {'another' if token else 'a'} token; give it with --token"
    if response.status_code == 503:
        after = response.headers.get("Retry-After")
        return f"{url}: full ({told}), expected a free place; try again {f'in {after} s' if after else 'later'}"
    return f"{url}: refused ({told}), expected a websocket; check --url"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
