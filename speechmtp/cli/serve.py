"""a live server: websocket and HTTP clients of OpenAI, Deepgram and vosk, and a page to talk to"""

import argparse
import os
import sys
from collections.abc import Sequence

from speechmtp.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp serve`."""
    parser.add_argument("--asr", action="append", default=[], metavar="[NAME=]MODEL",
                        help="a model folder, an embedded model or a hub name, and the name that clients give it; "
                        "several times for several models (default: default)")  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto (default: a GPU where there is one), cpu, cuda:1, ...")
    parser.add_argument("--workers", type=int, metavar="N",
                        help="engine processes (default: one for each core, or one on a GPU)")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8765, help="port (default 8765; 0: any that is free)")
    parser.add_argument("--token", action="append", default=[], metavar="T",
                        help="a secret that clients must send; needed where others can reach the host; also from "
                        "SPEECHMTP_TOKENS, separated by blanks")  # fmt: skip
    parser.add_argument("--origin", action="append", default=[], metavar="URL",
                        help="a web page's origin that may connect besides the server's own")  # fmt: skip
    parser.add_argument(
        "--tls-cert", default="", metavar="FILE", help="certificate in PEM format, read again on SIGHUP"
    )
    parser.add_argument("--tls-key", default="", metavar="FILE", help="its key")
    parser.add_argument("--sessions", type=int, default=0, metavar="N",
                        help="most sessions at once (default: as many as the engines can carry)")  # fmt: skip
    parser.add_argument("--drain", type=float, default=30.0, metavar="S",
                        help="seconds that sessions may go on after SIGTERM (default 30)")  # fmt: skip
    parser.add_argument("--strict-models", action="store_true",
                        help="refuse model names that are not served; otherwise they mean the first one")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or Ctrl-C."""
    from speechmtp.cores import cores
    from speechmtp.server.app import run_server, settle_logging
    from speechmtp.server.config import ServerConfig

    on_gpu = not args.device.startswith("cpu") and (args.device != "auto" or _has_gpu())
    config = ServerConfig(
        models=_models(args.asr), host=args.host, port=args.port, device=args.device,
        workers=args.workers if args.workers is not None else 1 if on_gpu else cores(),
        tokens=[*args.token, *os.environ.get("SPEECHMTP_TOKENS", "").split()], origins=args.origin,
        tls_cert=args.tls_cert, tls_key=args.tls_key, sessions=args.sessions, drain=args.drain,
        strict_models=args.strict_models,
    )  # fmt: skip
    settle_logging()
    return run_server(config, _say)


def _say(line: str) -> None:
    print(line, flush=True)


def _has_gpu() -> bool:
    """Whether there seems to be an NVIDIA GPU; PyTorch would say, but is not imported here."""
    return sys.platform == "linux" and os.path.exists("/dev/nvidiactl")


def _models(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and models. ConfigError for an empty name."""
    found = []
    for one in given or ["default"]:
        name, equals, model = one.partition("=")
        if not equals:
            name, model = os.path.basename(os.path.normpath(one)), one
        if not name or not model:
            raise ConfigError(f"--asr {one}: expected MODEL or NAME=MODEL; give both parts")
        found.append((name, model))
    return tuple(found)
