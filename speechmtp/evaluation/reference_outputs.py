"""Reference outputs for evaluating heads: the outputs of `ar`, decoded once and stored, or transcripts."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from errno import EPERM
from pathlib import Path
from typing import Any

from speechmtp.api import Recogniser
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.evaluation.evaluation_sets import name_batches
from speechmtp.heads.folder import trunk_settings
from speechmtp.models.ctc_labels import CtcLogits
from speechmtp.progress import track
from speechmtp.text.normalize import get_normalizer
from speechmtp.types import Request

Tokens = dict[str, list[int]]


def write_problem(folder: Path) -> str:
    """Create a folder. Return why nothing can be stored in it (it is part of the package, or there is no permission);
    empty if it can be written."""
    try:
        if Path(__file__).resolve().parents[1] in folder.resolve().parents:
            raise PermissionError(EPERM, "it is part of the installed package")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        return str(error.strerror or error)
    return ""


def plain_tokens(
    recogniser: Recogniser, requests: Mapping[str, Request], rows: int, files: Sequence[Path]
) -> tuple[Tokens, bool]:
    """Tokens of `ar` for every utterance (an end token last where it ended), decoded `rows` at a time, and whether they
    were read from a file (see `stored_tokens`)."""
    key = {"trunk_sha256": recogniser.bundle.trunk_sha256, "trunk_settings": trunk_settings(recogniser.bundle.model),
           "heard_sha256": requests_digest(requests),
           "dtype": str(recogniser.dtype).removeprefix("torch.")}  # fmt: skip
    plain = parse_strategy("ar")

    def decode() -> Tokens:
        tokens: Tokens = {}
        for group in track(name_batches(requests, rows), "ar"):
            for name, result in zip(group, recogniser.decode([requests[n] for n in group], plain)):
                tokens[name] = list(result.tokens)
        return {name: tokens[name] for name in requests}

    return stored_tokens(key, recogniser.bundle.name, decode, files)


def stored_tokens(
    key: Mapping[str, object], model: str, decode: Callable[[], Tokens], files: Sequence[Path]
) -> tuple[Tokens, bool]:
    """The result of `decode`, or the stored one for the same `key`; and whether it was read from a file.

    If none of `files` has the key, the result is written to the first. The key holds digests of the trunk and the
    inputs, and the dtype.
    """
    for path in files:
        found = _read(path)
        if found is not None and {name: found.get(name) for name in key} == key:
            return {name: [int(t) for t in tokens] for name, tokens in found["tokens"].items()}, True
    tokens = decode()
    files[0].write_text(json.dumps({**key, "model": model, "tokens": tokens}) + "\n")
    return tokens, False


def requests_digest(requests: Mapping[str, Request]) -> str:
    """SHA-256 over token rules, utterance ids, start tokens and encoder results: the prompt length, the CTC labels
    (without a CTC head of the model's own: the token limit), and the encoder output of an encoder-decoder in full
    (Whisper's all have one size)."""
    digest = hashlib.sha256(
        json.dumps(sorted(str(rules) for rules in {one.rules for one in requests.values()})).encode()
    )
    for name, one in sorted(requests.items()):
        heard = one.source(CtcLogits)
        known = one.limit if heard is None else heard.read().labels
        digest.update(json.dumps([name, int(one.prompt.lengths[0]), known, *one.start_tokens]).encode())
        if one.prompt.memory is not None:
            digest.update(one.prompt.memory.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def text_tokens(recogniser: Recogniser, requests: Mapping[str, Request], texts: Mapping[str, str]) -> Tokens:
    """Transcripts as tokens that the model would have to emit, each with an end token; no tokens for an empty
    request."""
    model, normalise = recogniser.bundle.model, get_normalizer(recogniser.bundle.normalizer)
    return {
        name: [] if one.empty else [*model.transcript(normalise(texts[name])), model.eos[0]]
        for name, one in requests.items()
    }


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a file of stored tokens; None if it cannot be used."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("tokens"), dict) else None
