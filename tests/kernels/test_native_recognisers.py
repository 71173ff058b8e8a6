"""The embedded models say the same of the examples natively and by modules, whatever the strategy and the batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from native_models import NATIVE

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.transcripts import Transcript

EXAMPLES = ("reading", "digits", "date")
STRATEGIES = {
    "default": ("ar", "verify:depth=3", "tree", "ctc", "ctc-heads", "lookup"),
    "an4": ("ar", "verify", "tree", "dynamic-tree", "ctc", "lookup"),
}
pytestmark = NATIVE


@contextmanager
def by_modules(recogniser: Recogniser) -> Iterator[None]:
    """Without native steps inside."""
    parts = [recogniser.bundle.model.trunk, *recogniser.bundle.heads.values()]
    kept = [part.native for part in parts]
    for part in parts:
        part.native = None
    yield
    for part, native in zip(parts, kept):
        part.native = native


@pytest.fixture(scope="module", params=sorted(STRATEGIES))
def recogniser(request: pytest.FixtureRequest) -> Recogniser:
    """An embedded model."""
    return speechmtp.load(request.param, device="cpu")


def said(recogniser: Recogniser, strategy: str, batch: int, jobs: int = 1) -> list[Transcript]:
    """Transcripts of the examples."""
    paths = [speechmtp.example(name) for name in EXAMPLES]
    return list(recogniser.transcribe_many(paths, strategy=strategy, batch=batch, jobs=jobs))


def test_trunks_and_heads_run_natively(recogniser: Recogniser) -> None:
    assert recogniser.bundle.model.trunk.native is not None


def test_texts_are_those_of_modules(recogniser: Recogniser) -> None:
    name = recogniser.bundle.name
    with by_modules(recogniser):
        expected = {batch: said(recogniser, "ar", batch) for batch in (1, 3)}
    for number, strategy in enumerate(STRATEGIES[name]):
        for batch in (1, 3) if number < 2 else (3,):
            found = said(recogniser, strategy, batch)
            assert [one.tokens for one in found] == [one.tokens for one in expected[batch]], (strategy, batch)
            if strategy == "ar":
                assert [one.trace.calls for one in found] == [one.trace.calls for one in expected[batch]]
    assert [one.tokens for one in said(recogniser, "verify", 1, 2)] == [one.tokens for one in expected[1]]
