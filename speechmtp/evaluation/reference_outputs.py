"""The outputs on which heads are judged: what `ar` says, decoded once and stored, or transcripts."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from errno import EPERM
from pathlib import Path
from typing import Any

from speechmtp.api import Recogniser
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.evaluation.evaluation_sets import name_batches
from speechmtp.progress import track
from speechmtp.text.normalize import get_normalizer
from speechmtp.types import CtcLabels, Request

Tokens = dict[str, list[int]]


def write_problem(folder: Path) -> str:
    """Make a folder; what comes back says why nothing can be stored in it (it is part of the package, or there is no
    permission), and is empty where all is well."""
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
    """What `ar` says to every utterance, an end token last where it ended, `rows` utterances at a time; and whether it
    was on file (see `stored_tokens`)."""
    key = {"trunk_sha256": recogniser.bundle.trunk_sha256, "heard_sha256": requests_digest(requests),
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
    """What `decode` gives, or what it gave before for the same `key`; and whether it was on file.

    The first of `files` is written where none of them has the key: trunk, type of the numbers and all that was read.
    """
    for path in files:
        found = _read(path)
        if found is not None and {name: found.get(name) for name in key} == key:
            return {name: [int(t) for t in tokens] for name, tokens in found["tokens"].items()}, True
    tokens = decode()
    files[0].write_text(json.dumps({**key, "model": model, "tokens": tokens}) + "\n")
    return tokens, False


def requests_digest(requests: Mapping[str, Request]) -> str:
    """SHA-256 over the utterance ids and what the encoder made of each: the size of the prompt and the labels of the
    CTC head; of an encoder-decoder the whole encoder output (Whisper's are all of one size) and the limit of tokens."""
    digest = hashlib.sha256()
    for name, one in sorted(requests.items()):
        labels = one.source(CtcLabels)
        known = one.limit if labels is None else labels.labels
        digest.update(json.dumps([name, int(one.prompt.lengths[0]), known]).encode())
        if one.prompt.memory is not None:
            digest.update(one.prompt.memory.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def text_tokens(recogniser: Recogniser, requests: Mapping[str, Request], texts: Mapping[str, str]) -> Tokens:
    """Transcripts as the model would have to say them, an end token behind each; none for a silent request."""
    model, normalise = recogniser.bundle.model, get_normalizer(recogniser.bundle.normalizer)
    return {
        name: [] if one.empty else [*model.transcript(normalise(texts[name])), model.eos[0]]
        for name, one in requests.items()
    }


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a file of stored tokens; None where there is none that can be used."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("tokens"), dict) else None
