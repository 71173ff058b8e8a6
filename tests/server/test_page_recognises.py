"""The page, the command `stream` and a load against a server with the default model: the right words."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import CHROMIUM, Browser

import speechmtp
from speechmtp.audio.io import read_audio
from speechmtp.cli.main import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
READING = speechmtp.example("reading")
TEXT = "I opened my eyes upon a strange and weird landscape. I knew that I was on Mars."


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server with one engine."""
    command = [sys.executable, "-m", "speechmtp.cli.main", "serve", "--port", "0", "--workers", "1", "--drain", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http://[\d.]+:\d+", server.stdout.readline())
    assert found is not None
    yield found[0]
    server.terminate()
    assert server.wait(30) == 0


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_the_page_shows_what_its_microphone_hears(url: str, tmp_path: Path) -> None:
    samples, rate = read_audio(READING)
    path = tmp_path / "microphone.wav"
    soundfile.write(path, np.concatenate([np.zeros(rate), samples, np.zeros(4 * rate)]), rate)
    with Browser(path) as browser:
        browser.open(f"{url}/")
        browser.click("main")
        words = "[...document.querySelectorAll('#said p')].map(p => p.dataset.text || '').join(' ')"
        browser.wait(lambda: str(browser.run(words)).endswith("Mars."))
        assert browser.run(words) == TEXT and float(browser.text("tokens")) > 1
        browser.click("main")
        browser.wait(lambda: browser.text("state") == "Ready")
        assert not browser.named("Runtime.exceptionThrown")
        assert not [one for one in browser.named("Audits.issueAdded") if "ontentSecurityPolicy" in str(one)]


def test_the_command_says_the_words_and_how_late_they_were(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", str(READING), "--url", url]) == 0
    said = capsys.readouterr()
    assert " ".join(said.out.split()) == TEXT
    assert re.search(r"words \d\.\d\d s behind their ends .*last words \d\.\d\d s after the end", said.err)


def test_a_load_loses_nothing_and_says_what_one_stream_says(url: str, tmp_path: Path) -> None:
    data, words, expected = (str(tmp_path / name) for name in ("data", "words.json", "expected.json"))
    Path(data).mkdir()
    samples, rate = read_audio(READING)
    soundfile.write(tmp_path / "reading.wav", samples, rate)
    for table, line in (("wav.scp", f"reading {tmp_path}/reading.wav"), ("text", f"reading {TEXT}"),
                        ("utt2spk", "reading one")):  # fmt: skip
        (tmp_path / "data" / table).write_text(f"{line}\n")

    def load(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools" / "load.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "17 of 17 words" in load("words", data, words).stdout
    assert load("expect", data, expected, "--url", url).returncode in (0, 1)
    assert " ".join(json.loads(Path(expected).read_text())["reading"].split()) == TEXT
    done = load("run", data, "--url", url, "--streams", "2", "--minutes", "0.3", "--words", words, "--expected",
                expected, "--out", str(tmp_path / "load.json"))  # fmt: skip
    report = json.loads((tmp_path / "load.json").read_text())
    assert report["counts"]["commits"] >= 2 and not report["counts"]["lost"] and not report["counts"]["wrong"], done
    assert report["coverage"] == 1.0 and 0 < report["delays"]["emission"]["p50"] < 5
