"""A cache file for encoder outputs, so that later trainings need not compute them again."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from speechmtp.data.kaldi import Utterance
from speechmtp.errors import DataError

Item = TypeVar("Item")
NUMBERS: dict[Any, torch.dtype] = {int: torch.long, float: torch.float64, bool: torch.bool}


class EncoderCache(Generic[Item]):
    """Stores items of one dataclass in one safetensors file.

    `item` is the dataclass, whose fields are tensors [N, ...] of any N, lists of token ids, numbers or strings. `path`
    is the file; with None nothing is stored. `facts` are JSON values that describe everything the items depend on (the
    model's weights and options, the audio); a file that was written for other facts is rejected.
    """

    def __init__(self, path: Path | None, item: type[Item], facts: Sequence[object]) -> None:
        self.path, self._item = path, item
        hints = get_type_hints(item)
        self._fields = {field.name: hints[field.name] for field in dataclasses.fields(item)}  # type: ignore[arg-type]
        described = [item.__name__, {name: str(kind) for name, kind in self._fields.items()}, list(facts)]
        self.key = hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def get(self, compute: Callable[[], list[Item]]) -> list[Item]:
        """The items of the file. If it does not exist, compute the items with `compute` and write the file. DataError
        if the file was written for other facts or cannot be read or written."""
        if self.path is not None and self.path.exists():
            return self.read(self.path)
        items = compute()
        if self.path is not None and items:
            self.write(self.path, items)
        return items

    def write(self, path: Path, items: Sequence[Item]) -> None:
        """Write at least one item atomically. DataError if the file cannot be written."""
        tensors: dict[str, Tensor] = {}
        texts = {"format": "pt", "key": self.key}
        for name, kind in self._fields.items():
            values = [getattr(item, name) for item in items]
            if kind is str:
                texts[name] = json.dumps(values)
            elif kind in NUMBERS:
                tensors[name] = torch.tensor(values, dtype=NUMBERS[kind])
            else:
                parts = values if kind is Tensor else [torch.tensor(value, dtype=torch.long) for value in values]
                tensors[name] = torch.cat(parts)
                tensors[f"{name}.lengths"] = torch.tensor([len(part) for part in parts])
        temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(tensors, temporary, texts)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be written: {_one_line(error)}; name a file elsewhere") from error

    def read(self, path: Path) -> list[Item]:
        """Read the items of a file. DataError if it was written for other facts or cannot be read."""
        try:
            with safe_open(path, framework="pt") as file:
                texts = file.metadata() or {}
                if texts.get("key") != self.key:
                    raise DataError(
                        f"{path}: holds encoder outputs of another model, data or options; remove it or name another"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            columns = [self._column(name, kind, tensors, texts) for name, kind in self._fields.items()]
            return [self._item(*values) for values in zip(*columns, strict=True)]
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"{path}: cannot be read: {_one_line(error)}; remove it") from error

    @staticmethod
    def _column(name: str, kind: Any, tensors: dict[str, Tensor], texts: dict[str, str]) -> Iterable[Any]:
        """The values of one field, one per item."""
        if kind is str:
            values: list[Any] = json.loads(texts[name])
            return values
        if kind in NUMBERS:
            return tensors[name].tolist()
        parts = tensors[name].split(tensors[f"{name}.lengths"].tolist())
        return parts if kind is Tensor else [part.tolist() for part in parts]


def audio_facts(utterances: Iterable[Utterance], transcripts: bool) -> list[list[object]]:
    """The facts that encoder outputs of utterances depend on: audio and, with `transcripts`, texts."""
    return [[u.id, u.text if transcripts else "", u.audio, u.start, u.end, u.channel] for u in utterances]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
