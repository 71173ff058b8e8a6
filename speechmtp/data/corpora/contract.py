"""What a corpus offers: whether it is there, how it is fetched, and the data directories that are made of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from speechmtp.errors import ConfigError


class Corpus(ABC):
    """A corpus that is prepared by name; a subclass is one file of this folder and one line of `table.py`."""

    name: ClassVar[str]  # what the corpus is called where one is named
    title: ClassVar[str]  # what it holds, in one line
    language: ClassVar[str]  # ISO 639 code
    licence: ClassVar[str]
    needs: ClassVar[str]  # what `prepare` expects to find at its source, in one line
    url: ClassVar[str] = ""  # what `download` fetches; empty where it must be had by other means

    @abstractmethod
    def is_there(self, source: Path) -> bool:
        """Whether `prepare` would find the corpus at `source`, a folder or an archive."""

    @abstractmethod
    def prepare(self, source: Path, out: Path) -> dict[str, int]:
        """Write the data directories of the corpus below `out`; returns the number of utterances of each by name.

        `source` is a folder or an archive. DataError where the corpus is not there or damaged.
        """

    def download(self, folder: Path) -> Path:
        """Fetch the corpus into `folder`, so that `prepare` finds it there, and return what was fetched.

        ConfigError where the corpus cannot be downloaded, DataError where the download fails.
        """
        raise ConfigError(f"{self.name}: cannot be downloaded; get it by hand ({self.needs}) and give its folder")

    def info(self) -> dict[str, object]:
        """The fields of info.json that are the same for every data directory of the corpus."""
        return {"corpus": self.name, "language": self.language, "licence": self.licence}
