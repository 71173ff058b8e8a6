"""`POST /v1/listen` over a real socket, with a stand-in for the process of uploads."""

import hashlib
import io
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from http_runs import Served, serving

from speechmtp.server.http.listen import wav_head


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(upload=100_000, tokens=["right"]) as one:
        yield one


def listen(served: Served, body: bytes, query: str = "", kind: str = "audio/wav", key: str = "Token right"):  # type: ignore[no-untyped-def]
    """Ask, and return the answer."""
    return served.ask("POST", f"/v1/listen?{query}", body, {"content-type": kind, "authorization": key})


def test_the_whole_answer(served: Served) -> None:
    body = b"One, two.\nThree"
    found = listen(served, body, "punctuate=true&model=nova-3&tag=a&tag=b").json()
    data = found["metadata"]
    assert (data["duration"], data["channels"], data["tags"]) == (2.0, 1, ["a", "b"])
    assert data["sha256"] == hashlib.sha256(body).hexdigest() and data["created"].endswith("Z")
    assert list(data["model_info"]) == data["models"] and data["model_info"][data["models"][0]]["name"] == "nova-3"
    [channel] = found["results"]["channels"]
    [alternative] = channel["alternatives"]
    assert alternative["transcript"] == "One, two. Three" and alternative["confidence"] == 0.5
    assert alternative["words"][1] == {
        "word": "two", "punctuated_word": "two.", "start": 0.25, "end": 0.375, "confidence": 0.5,
    }  # fmt: skip
    assert "utterances" not in found["results"]


def test_text_without_punctuation_unless_it_is_asked_for(served: Served) -> None:
    found = listen(served, b"One, two.").json()["results"]["channels"][0]["alternatives"][0]
    assert found["transcript"] == "one two" and "punctuated_word" not in found["words"][0]


def test_utterances(served: Served) -> None:
    found = listen(served, b"One two\nthree", "utterances=true").json()["results"]["utterances"]
    assert [(one["transcript"], one["start"], one["end"], one["channel"]) for one in found] == [
        ("one two", 0.0, 0.375, 0), ("three", 1.0, 1.125, 0),
    ]  # fmt: skip
    assert len({one["id"] for one in found}) == 2 and len(found[0]["words"]) == 2


@pytest.mark.parametrize(
    ("query", "kind", "status"),
    [
        ("diarize=true", "audio/wav", 400), ("multichannel=true", "audio/wav", 400), ("callback=http://x", "audio/wav", 400),
        ("redact=pci", "audio/wav", 400), ("channels=2", "audio/wav", 400), ("encoding=opus", "audio/wav", 400),
        ("encoding=linear16&sample_rate=x", "audio/wav", 400), ("utterances=x", "audio/wav", 400),
        ("", "application/json", 400), ("diarize=false&smart_format=true&no_such=1", "audio/wav", 200),
    ],
)  # fmt: skip
def test_what_is_refused(served: Served, query: str, kind: str, status: int) -> None:
    found = listen(served, b'{"url":"http://x"}', query, kind)
    assert found.status == status and (status == 200 or found.headers["dg-error"])
    assert status == 200 or (found.json()["err_msg"] and found.headers["dg-request-id"] == found.json()["request_id"])


def test_refusals_of_tokens_size_and_version(served: Served) -> None:
    for key in ("Token wrong", "Bearer", ""):
        found = listen(served, b"one", key=key)
        assert found.status == 401 and found.headers["dg-error"]
    assert listen(served, 100_001 * b"x").status == 413
    found = served.ask("POST", "/v2/listen", b"", {"authorization": "Token right"})
    assert found.status == 404 and found.headers["dg-error"]


def test_raw_samples_get_a_header(served: Served) -> None:
    """The stand-in reads lines: the header is in the first."""
    raw = b"\nraw"
    found = listen(served, raw, "encoding=linear16&sample_rate=8000").json()
    assert found["metadata"]["sha256"] == hashlib.sha256(raw).hexdigest()
    text = found["results"]["channels"][0]["alternatives"][0]["transcript"]
    assert text.startswith("riff") and text.endswith("raw")
    wav = wav_head("linear16", 8000, 4) + b"\nwav"
    assert listen(served, wav, "encoding=mulaw").json()["metadata"]["sha256"] == hashlib.sha256(wav).hexdigest()
    short = listen(served, b"one", "encoding=linear16&sample_rate=8000")
    assert short.status == 200
    assert listen(served, b"", "encoding=linear16&sample_rate=8000").json()["metadata"]["duration"] == 0.0


@pytest.mark.parametrize(
    ("encoding", "kind"), [("linear16", "PCM_16"), ("linear32", "FLOAT"), ("mulaw", "ULAW"), ("alaw", "ALAW")]
)
def test_headers_of_samples(encoding: str, kind: str) -> None:
    wave = np.sin(np.arange(800) / 10).astype(np.float32) / 2
    whole = io.BytesIO()
    soundfile.write(whole, wave, 8000, subtype=kind, format="RAW")
    data = whole.getvalue()
    with soundfile.SoundFile(io.BytesIO(wav_head(encoding, 8000, len(data)) + data)) as file:
        assert (file.samplerate, file.channels, file.subtype, file.frames) == (8000, 1, kind, 800)
        assert np.abs(file.read() - wave).max() < 0.03
