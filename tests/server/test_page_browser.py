"""The page in a real browser: what its microphone hears arrives whole and is shown; nothing comes from elsewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import CHROMIUM, Browser
from realtime_stand_in import PAGE, PER_WORD, TEXT, Behaviour, StandIn

import speechmtp
from speechmtp.audio.io import read_audio

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

SECONDS, LEAD, RATE, TONE = 1.3, 0.2, 48000, 1000.0


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second and a half of 1 kHz between silence."""
    path = tmp_path_factory.mktemp("audio") / "tone.wav"
    wave = 0.3 * np.sin(2 * np.pi * TONE * np.arange(int(SECONDS * RATE)) / RATE)
    soundfile.write(path, np.concatenate([np.zeros(int(LEAD * RATE)), wave, np.zeros(RATE)]), RATE)
    return path


@pytest.fixture(scope="module")
def browser(tone: Path) -> Iterator[Browser]:
    """A browser whose microphone hears the tone once; every test opens the page anew."""
    with Browser(tone) as found:
        yield found


def begun(browser: Browser, server: StandIn) -> None:
    """Open the page of a server and press the button."""
    del browser.events[:]
    browser.open(server.url)
    browser.click("main")


def said(browser: Browser) -> str:
    """The committed text on show, without times."""
    return str(browser.run("[...document.querySelectorAll('#said p')].map(p => p.dataset.text || '').join('\\n')"))


def clean(browser: Browser, server: StandIn) -> bool:
    """Whether nothing came from elsewhere, no policy was violated and no script failed."""
    urls = {one["request"]["url"] for one in browser.named("Network.requestWillBeSent")}
    urls |= {one["url"].replace("ws://", "http://") for one in browser.named("Network.webSocketCreated")}
    foreign = [url for url in urls if not url.startswith((server.url, f"blob:{server.url}", "data:", "about:"))]
    problems = [one for one in browser.named("Audits.issueAdded") if "ontentSecurityPolicy" in str(one)]
    thrown = browser.named("Runtime.exceptionThrown")
    logged = [one for one in browser.named("Log.entryAdded") if one["entry"]["source"] in ("security", "javascript")]
    assert not foreign and not problems and not thrown and not logged, (foreign, problems, thrown, logged)
    return True


def test_what_the_microphone_hears_arrives_whole(browser: Browser) -> None:
    with StandIn() as server:
        begun(browser, server)
        browser.wait(lambda: server.sessions and len(server.sessions[0].samples) > 16000 * (SECONDS + LEAD + 0.3))
        browser.wait(lambda: browser.text("tail").strip())
        assert browser.text("main-label") == "Stop" and browser.text("delay").endswith(" s")
        assert float(browser.text("tokens")) == pytest.approx(2.5, abs=0.3)
        browser.click("main")
        browser.wait(lambda: browser.text("state") == "Ready")
        heard = server.sessions[0]
        assert heard.rate == 16000 and heard.messages[-1]["type"] == "session.update"
        loud = np.flatnonzero(np.abs(heard.samples) > 200)
        assert (loud[-1] - loud[0]) / 16000 == pytest.approx(SECONDS, rel=0.01)
        tone = heard.samples[loud[0] + 2000 : loud[0] + 2000 + 16000].astype(np.float64)
        power = np.abs(np.fft.rfft(tone * np.hanning(len(tone)), 1 << 18))
        assert np.argmax(power) * 16000 / (1 << 18) == pytest.approx(TONE, abs=2)
        words = len(heard.samples) // (16 * PER_WORD)
        assert said(browser).split() == TEXT.split()[: words or 1] and not browser.text("tail")
        assert not browser.run("document.getElementById('srt').disabled") and clean(browser, server)


def test_a_lost_connection_is_a_gap_in_the_text(browser: Browser) -> None:
    with StandIn(Behaviour(drop=0.65)) as server:
        begun(browser, server)
        browser.wait(lambda: len(server.sessions) == 2 and len(server.sessions[1].samples) > 1600)
        assert re.search(r"\[No connection: about \d s are missing here\]", said(browser))
        browser.click("main")
        browser.wait(lambda: browser.text("state") == "Ready")
        assert said(browser).startswith("I\n[") and clean(browser, server)


def test_a_full_server_is_tried_again(browser: Browser) -> None:
    with StandIn(Behaviour(refuse=503, ready=503)) as server:
        begun(browser, server)
        browser.wait(lambda: "The server is full" in browser.text("notice-text"))
        browser.wait(lambda: browser.text("state").startswith("Trying again in 1 s"))
        server.behaviour.refuse = 0
        browser.wait(lambda: browser.text("state") == "Listening")
        browser.wait(
            lambda: server.sessions and len(server.sessions[0].samples) > 16000, 0.7
        )  # what was said meanwhile
        assert browser.run("document.getElementById('notice').hidden")
        browser.click("main")
        browser.wait(lambda: browser.text("state") == "Ready")


def test_a_token_is_asked_for_and_kept_out_of_the_address(browser: Browser) -> None:
    with StandIn(Behaviour(token="tell-me")) as server:
        begun(browser, server)
        browser.wait(lambda: browser.run("document.activeElement.id") == "token")
        assert browser.text("notice-text") == "This server asks for a token."
        for given, found in (("wrong", "The server refused this token."), ("tell-me", "")):
            browser.run(f"document.getElementById('token').value = '{given}'")
            browser.run("document.getElementById('token-form').requestSubmit()")
            browser.wait(lambda found=found: browser.text("notice-text") == found)
        browser.wait(lambda: browser.text("state") == "Listening")
        browser.click("main")
        browser.wait(lambda: browser.text("state") == "Ready")
        assert "tell-me" not in str([one["url"] for one in browser.named("Network.webSocketCreated")])
        assert browser.run("localStorage.length") == 0 and clean(browser, server)


def test_a_recording_is_decoded_and_sent_whole(browser: Browser) -> None:
    path = speechmtp.example("reading")
    samples, _ = read_audio(path)
    with StandIn(Behaviour(delay=0.2)) as server:
        del browser.events[:]
        browser.open(server.url)
        document = browser.call("DOM.getDocument")["root"]["nodeId"]
        field = browser.call("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
        browser.call("DOM.setFileInputFiles", nodeId=field, files=[str(path)])
        browser.wait(lambda: browser.text("state") == "Ready" and said(browser))
        found = server.sessions[0].samples
        assert len(found) == len(samples) and np.abs(found / 32768 - samples).max() < 1e-4
        assert said(browser).split() == TEXT.split()[: len(found) // (16 * PER_WORD)] and clean(browser, server)


def test_keys_and_names_are_there_for_those_who_need_them(browser: Browser) -> None:
    with StandIn() as server:
        browser.open(server.url)
        tree = browser.call("Accessibility.getFullAXTree")["nodes"]
        buttons = [one["name"]["value"] for one in tree if one.get("role", {}).get("value") == "button"]
        assert {"Start", "Copy", "Text", "Clear", "Settings", "New line", "Choose a recording"} <= set(buttons)
        assert all(buttons) and browser.run("document.documentElement.lang") == "en"
        assert browser.run("document.querySelector('#said').getAttribute('aria-live')") == "polite"
        assert not browser.run("document.querySelector('#said').contains(document.querySelector('#tail'))")
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="r", text="r")
        browser.wait(lambda: browser.text("main-label") == "Stop")
        assert browser.run("document.title").startswith("● ")
        browser.run("document.getElementById('main').focus()")
        browser.wait(lambda: server.sessions and len(server.sessions[0].samples) > 4000)
        browser.call(
            "Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
        browser.wait(lambda: browser.text("state") == "Ready")
        assert browser.run("document.activeElement.id") == "main"


def test_subtitles_have_cues_that_fit(browser: Browser) -> None:
    words = " ".join(["seven"] * 40)
    with StandIn() as server:
        browser.open(server.url)
        found = browser.run(
            "import('/transcript.js').then(m => m.subtitles([{base: 3600000, start: 3600000, end: 3620000, "
            f"text: '{words}', words: []}}, {{base: 0, start: 10, end: 20, text: 'a --> b', words: "
            "[{text: 'a', start_ms: 5, end_ms: 6}, {text: '-->', start_ms: 6, end_ms: 7},"
            " {text: 'b', start_ms: 8, end_ms: 1009}]}]))"
        )
    blocks = [block.splitlines() for block in found.split("\n\n")]
    assert [int(block[0]) for block in blocks] == list(range(1, len(blocks) + 1))
    assert blocks[0][1].startswith("01:00:00,000 --> 01:00:07,000") and blocks[-1][1] == "00:00:00,005 --> 00:00:01,009"
    assert all(len(line) <= 48 for block in blocks for line in block[2:]) and all(len(block) <= 4 for block in blocks)
    assert sum(line.count("seven") for block in blocks for line in block[2:]) == 40 and blocks[-1][2] == "a -> b"


def test_without_a_microphone_there_is_a_plain_line() -> None:
    elsewhere = ("--host-resolver-rules=MAP page.test 127.0.0.1",)
    with StandIn() as server, Browser(deaf=True, flags=elsewhere) as browser:
        begun(browser, server)
        browser.wait(lambda: browser.text("notice-text"))
        assert browser.text("notice-text").startswith(("No microphone was found", "The microphone "))
        assert browser.text("main-label") == "Start" and browser.text("state") == "Ready"
        browser.open(f"http://page.test:{server.port}/")
        browser.click("main")
        browser.wait(lambda: browser.text("notice-text"))
        assert "only to pages from localhost or over https" in browser.text("notice-text")


def test_the_page_has_no_script_or_style_inside_and_no_address_of_elsewhere() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert "innerHTML" not in text and "eval(" not in text, path.name
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", html)
