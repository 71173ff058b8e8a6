"""A headless Chromium that is driven by its DevTools protocol."""

import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--remote-debugging-port=0",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


class Browser:
    """One page of a Chromium of its own. `recording` is the WAV file that its microphone plays once; it has none if
    `deaf`. `events` are what the page did: requests, console messages, exceptions, reports of violated policies."""

    def __init__(self, recording: str | Path | None = None, deaf: bool = False, flags: tuple[str, ...] = ()) -> None:
        assert CHROMIUM is not None
        self._folder = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
        play = [f"--use-file-for-fake-audio-capture={recording}%noloop"] if recording else []
        kept = [one for one in _FLAGS if not (deaf and "media-stream" in one)]
        command = [CHROMIUM, *kept, *play, *flags, f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.events: list[dict[str, Any]] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._number = 0
        self._socket = connect(self._target(), max_size=None, compression=None, proxy=None)
        threading.Thread(target=self._listen, daemon=True).start()
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _target(self) -> str:
        """The address of the page's debugger."""
        file, deadline = Path(self._folder.name) / "DevToolsActivePort", time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            if file.exists() and (lines := file.read_text().splitlines()):
                with urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                    pages = [one for one in json.load(answer) if one["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            time.sleep(0.05)
        raise AssertionError("Chromium did not start")

    def _listen(self) -> None:
        try:
            for text in self._socket:
                message = json.loads(text)
                with self._changed:
                    if "id" in message:
                        self._answers[message["id"]] = message
                    else:
                        self.events.append(message)
                    self._changed.notify_all()
        except ConnectionClosed:
            pass

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; what it returns."""
        self._number += 1
        number = self._number
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        with self._changed:
            assert self._changed.wait_for(lambda: number in self._answers, 30), method
            answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )  # fmt: skip
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, url: str) -> None:
        """Go to a page and wait until it is there."""
        self.call("Page.navigate", url=url)
        self.wait(lambda: self.run("document.readyState") == "complete" and self.run("location.href") != "about:blank")

    def wait(self, true: Callable[[], Any], seconds: float = 30.0) -> None:
        """Wait until something is true."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "it did not come true"
            time.sleep(0.05)

    def click(self, name: str) -> None:
        """Click on the element of that id."""
        self.run(f"document.getElementById({name!r}).click()")

    def text(self, name: str) -> str:
        """The text of the element of that id."""
        return str(self.run(f"document.getElementById({name!r}).innerText"))

    def named(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of one kind."""
        return [event["params"] for event in self.events if event["method"] == method]
