"""What `transcribe` and `decode` share: audio read, heard, decoded in batches, and what looks wrong about its text."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechmtp.cli.options import noise_key_of
from speechmtp.cli.progress import AudioBar
from speechmtp.errors import DataError
from speechmtp.recordings import Recording, held

if TYPE_CHECKING:
    import numpy as np

    from speechmtp.api import Recogniser
    from speechmtp.decoding.processors import SamplingConfig
    from speechmtp.decoding.strategies import Strategy
    from speechmtp.types import Request

WARNINGS = {
    "limit": "stopped at the limit of tokens and may be cut",
    "repetition": "end in a repetition",
    "empty": "have no text",
}


@dataclass(frozen=True)
class Source:
    """One recording: how it is read, what errors call it, and what its noise is named after."""

    load: Callable[[], "np.ndarray"]
    where: str
    name: str


def recognise_sources(
    recogniser: "Recogniser", sources: Sequence[Source], strategy: "Strategy", batch: int, sampling: "SamplingConfig",
    broken: Callable[[DataError], object] | None = None,
) -> Iterator[tuple[Source, Sequence["Request"], Recording]]:  # fmt: skip
    """Every recording in order, with the parts that were heard of it, under a bar. One that cannot be read or heard is
    told to `broken` and left out; without it, it is an error."""
    with AudioBar("recognising", len(sources)) as bar:

        def heard() -> Iterator[tuple[Source, list["Request"]]]:
            for source in sources:
                try:
                    audio = source.load()
                    bar.read(len(audio) / recogniser.rate)
                    parts = []
                    for part in recogniser.listen_parts(audio, source.where, noise_key_of(source.name)):
                        parts.append(part)
                        bar.add(part.audio_seconds)
                except DataError as error:
                    if broken is None:
                        raise
                    broken(error)
                else:
                    yield source, parts

        for group in held(heard(), lambda one: len(one[1])):
            found = recogniser.decode_parts([parts for _, parts in group], strategy, batch, sampling, bar.add)
            for (source, parts), result in zip(group, found):
                yield source, parts, result


def warn_of(flags: Mapping[str, Sequence[str]], what: str) -> None:
    """One line on stderr for every way in which outputs look wrong: how many, and which. `flags` are by name."""
    for flag, warning in WARNINGS.items():
        names = [name for name, found in flags.items() if flag in found]
        if names:
            shown = names if flag == "limit" else names[:5]
            more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
            print(
                f"speechmtp: warning: {len(names)} of {len(flags)} {what} {warning}: {', '.join(shown)}{more}",
                file=sys.stderr,
            )
