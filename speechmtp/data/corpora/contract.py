"""The interface of a corpus: detect it, download it, and write its data directories."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from speechmtp.errors import ConfigError


class Corpus(ABC):
    """A corpus that is prepared by name; a subclass is one file of this folder and one line in `table.py`."""

    name: ClassVar[str]  # as given on the command line
    title: ClassVar[str]  # its contents, in one line
    language: ClassVar[str]  # ISO 639 code
    licence: ClassVar[str]
    needs: ClassVar[str]  # what `prepare` expects to find at its source, in one line
    url: ClassVar[str] = ""  # for `download`; empty if the corpus cannot be downloaded

    @abstractmethod
    def is_there(self, source: Path) -> bool:
        """Whether `prepare` would find the corpus at `source`, a folder or an archive."""

    @abstractmethod
    def prepare(self, source: Path, out: Path) -> dict[str, int]:
        """Write the data directories of the corpus below `out`; return the number of utterances of each by name.

        `source` is a folder or an archive. DataError if the corpus is missing or damaged.
        """

    def download(self, folder: Path) -> Path:
        """Download the corpus into `folder`, where `prepare` finds it, and return the path of the download.

        ConfigError if the corpus cannot be downloaded, DataError if the download fails.
        """
        raise ConfigError(f"{self.name}: cannot be downloaded; get it by hand ({self.needs}) and give its folder")

    def info(self) -> dict[str, object]:
        """The fields of info.json that all data directories of the corpus share."""
        return {"corpus": self.name, "language": self.language, "licence": self.licence}
