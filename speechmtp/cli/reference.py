"""The outputs on which heads are judged: what `ar` says, decoded once a data directory and kept, or transcripts."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from errno import EPERM
from pathlib import Path
from typing import Any

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.cli.options import batches
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.progress import track
from speechmtp.text.normalize import get_normalizer
from speechmtp.types import CtcLabels, Request

Tokens = dict[str, list[int]]


def make_writable(folder: Path) -> None:
    """Make the folder, or refuse in one line where nothing may be kept: inside the package, or without permission."""
    try:
        if Path(speechmtp.__file__).resolve().parent in folder.resolve().parents:
            raise PermissionError(EPERM, "it is part of the installed package")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written ({error.strerror or error}); give a folder with --out"
        ) from error


def plain_tokens(
    recogniser: Recogniser, requests: Mapping[str, Request], size: int, kept: Path, elsewhere: Sequence[Path] = ()
) -> tuple[Tokens, bool]:
    """What `ar` says to every utterance, an end token last where it ended; and whether it was on file (see
    `kept_tokens`)."""
    key = {"trunk_sha256": recogniser.bundle.trunk_sha256, "heard_sha256": heard_digest(requests),
           "dtype": str(recogniser.dtype).removeprefix("torch.")}  # fmt: skip
    plain = parse_strategy("ar")

    def decode() -> Tokens:
        tokens: Tokens = {}
        for group in track(list(batches(list(requests), requests, size)), "ar"):
            for name, result in zip(group, recogniser.decode([requests[n] for n in group], plain)):
                tokens[name] = list(result.tokens)
        return {name: tokens[name] for name in requests}

    return kept_tokens(key, recogniser.bundle.name, decode, kept, elsewhere)


def kept_tokens(
    key: Mapping[str, object], model: str, decode: Callable[[], Tokens], kept: Path, elsewhere: Sequence[Path] = ()
) -> tuple[Tokens, bool]:
    """What `decode` gives, or what it gave before for the same `key`; and whether it was on file.

    `kept` is the file to keep it in; files of this or another place (`elsewhere`) are taken where trunk, type of
    the numbers and all that was read (the key) are the same.
    """
    for path in (kept, *elsewhere):
        found = _read(path)
        if found is not None and {name: found.get(name) for name in key} == key:
            return {name: [int(t) for t in tokens] for name, tokens in found["tokens"].items()}, True
    tokens = decode()
    kept.write_text(json.dumps({**key, "model": model, "tokens": tokens}) + "\n")
    return tokens, False


def heard_digest(requests: Mapping[str, Request]) -> str:
    """SHA-256 over the utterance ids and what the encoder made of each: size of the prompt, and what the CTC head
    says; of a pretrained recogniser its whole memory (Whisper's are all of one size) and the limit of tokens."""
    digest = hashlib.sha256()
    for name, one in sorted(requests.items()):
        labels = one.source(CtcLabels)
        said = one.limit if labels is None else labels.labels
        digest.update(json.dumps([name, int(one.prompt.lengths[0]), said]).encode())
        if one.prompt.memory is not None:
            digest.update(one.prompt.memory.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def text_tokens(recogniser: Recogniser, requests: Mapping[str, Request], texts: Mapping[str, str]) -> Tokens:
    """Transcripts as the model would have to say them, an end token behind each; nothing where nothing is heard."""
    model, normalise = recogniser.bundle.model, get_normalizer(recogniser.bundle.normalizer)
    return {
        name: [] if one.empty else [*model.transcript(normalise(texts[name])), model.eos[0]]
        for name, one in requests.items()
    }


def _read(path: Path) -> dict[str, Any] | None:
    """A file of kept tokens; None where there is none that can be used."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("tokens"), dict) else None
