"""A server, or its engines alone, with the stub engine."""

import sys
from pathlib import Path
from typing import Any

from speechmtp.server.config import Limits, ServerConfig

STUB = Path(__file__).resolve().parents[2] / "tools" / "stub_engine.py"


def stub_config(*options: str, limits: Limits | None = None, **given: Any) -> ServerConfig:
    """A configuration whose engines are stubs, with options of theirs."""
    return ServerConfig(port=0, engine=[sys.executable, str(STUB), *options], limits=limits or Limits(), **given)
