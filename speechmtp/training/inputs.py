"""What a training depends on, kept beside it, so that it is resumed with the same configuration, model and data only.

The configuration is a YAML file of the training's folder; the digests of model and data are in its `inputs.json`.
Paths are not compared, so that folders may move.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from speechmtp.config import load_config, to_dict, write_yaml
from speechmtp.data.kaldi import DataDir, Utterance
from speechmtp.errors import CheckpointError, DataError
from speechmtp.models.storage import file_digest

INPUTS = "inputs.json"
MODEL_FILES = (".safetensors", ".bin", ".json", ".yaml", ".xz", ".model", ".txt", ".jinja")


def check_inputs(out: Path, name: str, config: Any, inputs: Mapping[str, str], paths: Sequence[str] = ()) -> bool:
    """Return whether the training in `out`, with its configuration in the file `name`, has begun. CheckpointError if it
    has begun with another configuration or other `inputs`, facts by name; fields of the configuration in `paths` may
    differ. A training of an earlier version without facts is accepted."""
    known = out / name
    if not known.exists():
        return False
    before, now = dict(_flat(to_dict(load_config(type(config), known)))), dict(_flat(to_dict(config)))
    for field in {**before, **now}:
        was, found = before.get(field, "not set"), now.get(field, "not set")
        if was != found and field not in paths:
            raise CheckpointError(
                f"{known}: differs from the configuration given: {field} was {was}, is {found}; resume with the same "
                f"one or give another folder with --out"
            )
    facts = _read_facts(out / INPUTS)
    for fact in sorted(facts.keys() | inputs.keys()) if facts else ():
        stored, given = facts.get(fact, "not given"), inputs.get(fact, "not given")
        if stored != given:
            raise CheckpointError(
                f"{out}: {fact} was {stored}, is {given}; resume on the same model and data, or give another folder "
                f"with --out"
            )
    return True


def keep_inputs(out: Path, name: str, config: Any, inputs: Mapping[str, str], paths: Sequence[str] = ()) -> None:
    """Check as `check_inputs` does, and write both files of a training that has not begun yet."""
    begun = check_inputs(out, name, config, inputs, paths)
    if begun and not (out / INPUTS).exists():
        problem = "begun by an earlier version, so model and data are not compared with those it was begun with"
        print(f"speechmtp: warning: {out}: {problem}", file=sys.stderr)
    elif not begun:
        out.mkdir(parents=True, exist_ok=True)
        _replace(out / INPUTS, json.dumps(dict(inputs), indent=1, ensure_ascii=False))
    temporary = out / f"{name}.tmp"
    write_yaml(temporary, config)
    temporary.replace(out / name)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _read_facts(path: Path) -> dict[str, str]:
    """Return the facts of a training; empty if it has none."""
    try:
        return {str(name): str(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; give another folder with --out") from error


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings and lists with their dotted names."""
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        yield prefix, value
    for name, part in parts or ():
        yield from _flat(part, f"{prefix}.{name}" if prefix else str(name))


def data_fact(data: DataDir) -> str:
    """Return the number of utterances of a data directory, and a digest of their ids, texts, segments, and names and
    sizes of audio files."""
    digest, size_of = hashlib.sha256(), cache(_size)
    for u in data.utterances:
        row = [u.id, u.text, _audio_name(u), 0 if u.pipe else size_of(u.audio), u.start, u.end, u.channel]
        digest.update(json.dumps(row).encode())
    return f"{len(data)} utterances (sha256 {digest.hexdigest()[:16]})"


def _audio_name(utterance: Utterance) -> str:
    """Return the name of an audio file, or a command, without folders."""
    words = utterance.audio.split() if utterance.pipe else [utterance.audio]
    return " ".join(Path(word).name for word in words)


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1


def text_fact(path: str | Path) -> str:
    """Return the digest of a text file."""
    return f"sha256 {file_digest(Path(path))[:16]}"


def tables_fact(data: DataDir, names: Sequence[str]) -> str:
    """Return the digests of tables of a data directory. DataError for one that is missing."""
    for name in names:
        if not (data.path / name).is_file():
            mend = f"run `speechmtp codec encode {data.path}`" if name == "tokens" else "a voice learns from it"
            raise DataError(f"{data.path}: no table {name}; {mend}")
    return " ".join(text_fact(data.path / name) for name in names)


def vocabulary_fact(tokenizer: Any) -> str:
    """Return the size and digest of the vocabulary of a tokenizer of transformers."""
    tokens = sorted(tokenizer.get_vocab().items())
    return f"{len(tokens)} tokens (sha256 {hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]})"


def folder_facts(role: str, folder: Path) -> dict[str, str]:
    """Return the digests of the files of a model folder, or of its heads, by `role` and name."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in MODEL_FILES)
    return {f"{role} {path.name}": text_fact(path) for path in files}
