"""Runs unmodified clients against a server on this machine, each in a virtual environment of its own:

    python tools/clients.py --envs FOLDER [--only openai,deepgram,vosk] [--scenarios one,full]

A recording is said once (`one`) and twice (`two`), its client is killed in the middle (`abrupt`), meets a server
without room (`full`), and goes on while the engine is killed (`restart`). Prints a table; the exit code is 1 if a run
failed.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import soundfile
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import speechmtp

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(__file__).parent / "client_scripts"
GOLDEN = ROOT / "tests" / "server" / "protocols" / "golden"
WORDS = "i opened my eyes upon a strange and weird landscape i knew that i was on mars"
SCENARIOS = ("one", "two", "abrupt", "full", "restart")
TOGETHER = 3  # clients at once
# What each environment needs; --newest leaves the versions out.
PACKAGES = {
    "openai": ["openai[realtime]==3.57.0"],
    "deepgram": ["deepgram-sdk==7.17.0"],
    "vosk": ["vosk==0.3.45", "websockets"],
    "livekit": ["livekit-agents==1.8.9", "livekit-plugins-openai==1.8.9", "livekit-plugins-deepgram==1.8.9"],
    "pipecat": ["pipecat-ai[openai,deepgram]==1.14.0"],
}


@dataclass(frozen=True)
class Client:
    """A script and its part: `live` over a websocket. Without room a live one is `refused`, or it `retries` until there
    is some; one that drops audio meanwhile may lose words (`loses`)."""

    env: str
    script: str
    part: str
    live: bool = True
    without_room: str = "refused"

    @property
    def name(self) -> str:
        """As the table calls it."""
        return f"{self.env} {self.part}"


CLIENTS = (
    Client("openai", "openai_sdk.py", "realtime"),
    Client("openai", "openai_sdk.py", "file", live=False),
    Client("openai", "openai_sdk.py", "streamed", live=False),
    Client("openai", "openai_sdk.py", "verbose", live=False),
    Client("deepgram", "deepgram_sdk.py", "live"),
    Client("deepgram", "deepgram_sdk.py", "file", live=False),
    Client("vosk", "vosk_client.py", "live"),
    Client("livekit", "livekit_stt.py", "openai-live", without_room="retries"),
    Client("livekit", "livekit_stt.py", "openai-commits", without_room="retries"),
    Client("livekit", "livekit_stt.py", "openai-whole", live=False),
    Client("livekit", "livekit_stt.py", "deepgram-live", without_room="retries"),
    Client("livekit", "livekit_stt.py", "deepgram-whole", live=False),
    Client("pipecat", "pipecat_stt.py", "openai", without_room="loses"),
    Client("pipecat", "pipecat_stt.py", "deepgram", without_room="loses"),
)


@dataclass
class Run:
    """What a client told, and how it ended."""

    client: Client
    scenario: str
    text: str = ""
    refused: str = ""
    version: str = ""
    seconds: float = 0.0
    problem: str = ""
    begun: asyncio.Event = field(default_factory=asyncio.Event)


def words(text: str) -> str:
    """Text without what is written differently from model to model and pass to pass."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


class Server:
    """`speechmtp serve` with one engine, on a free port."""

    def __init__(self, log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", "speechmtp.cli.main", "serve", "--port", "0", "--workers", "1"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=ROOT)
        deadline = time.monotonic() + 120
        while not (found := re.search(r"http://127\.0\.0\.1:[0-9]+", log.read_text())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"clients: the server did not start: {log.read_text().strip()}")
            time.sleep(0.1)
        self.address = found[0]

    def engine(self) -> int:
        """The process of its engine."""
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
                command = (status.parent / "cmdline").read_bytes()
            except OSError:  # it is gone
                continue
            if parent == self.process.pid and b"speechmtp.server.engine" in command:
                return int(status.parent.name)
        raise RuntimeError("the server has no engine")

    def get(self, path: str) -> str:
        """The text at a path."""
        with urlopen(self.address + path, timeout=10) as answer:
            return str(answer.read().decode())

    def open_sessions(self) -> float:
        """How many sessions it says are open."""
        found = re.findall(r"^speechmtp_sessions_active\{.*\} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(map(float, found))

    async def settled(self, seconds: float = 5.0) -> bool:
        """Wait until no session is open; False if one stays."""
        for _ in range(int(seconds / 0.1)):
            if await asyncio.to_thread(self.open_sessions) == 0:
                return True
            await asyncio.sleep(0.1)
        return False

    def stop(self) -> str:
        """End it; what it logged of errors, which should be nothing."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return "\n".join(line for line in self._log.read_text().splitlines() if "Traceback" in line or "ERROR" in line)


def prepare(folder: Path, names: Sequence[str], newest: bool) -> None:
    """Make the environments that are missing."""
    for name in names:
        place = folder / name
        if (place / "bin" / "python").exists():
            continue
        print(f"clients: installing {name} into {place}", flush=True)
        venv.create(place, with_pip=True)
        packages = [one.partition("==")[0] if newest else one for one in PACKAGES[name]]
        subprocess.run([place / "bin" / "python", "-m", "pip", "install", "-q", *packages], check=True)


async def follow(run: Run, process: asyncio.subprocess.Process) -> None:
    """Read what a client tells."""
    assert process.stdout is not None
    async for line in process.stdout:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        run.version = told.get("version", run.version)
        run.text = told.get("text", run.text)
        run.refused = str(told.get("refused", run.refused))
        if "begun" in told:
            run.begun.set()


async def play(run: Run, python: Path, server: Server, paths: Sequence[str], speed: float, limit: float) -> None:
    """Run a client to its end, or kill it in the middle."""
    client, began = run.client, time.monotonic()
    command = [str(python), str(SCRIPTS / client.script), client.part, server.address, str(speed), *paths]
    environment = {**os.environ, "PYTHONPATH": "", "QUIET": "20" if run.scenario == "restart" else "8"}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment, limit=1 << 20
    )
    assert process.stderr is not None
    told, errors = asyncio.create_task(follow(run, process)), asyncio.create_task(process.stderr.read())
    try:
        if run.scenario == "abrupt":
            await asyncio.wait_for(run.begun.wait(), limit)
            await asyncio.sleep(1.0)
            process.kill()
        await asyncio.wait_for(process.wait(), limit)
        await told
        last = (await errors).decode(errors="replace").strip().splitlines()
        if process.returncode not in (0, -signal.SIGKILL):
            run.problem = f"exit code {process.returncode}: {last[-1] if last else ''}"
    except TimeoutError:
        process.kill()
        run.problem = f"nothing after {limit:g} s"
    run.begun.set()
    run.seconds = time.monotonic() - began


async def fill(server: Server, stack: AsyncExitStack) -> None:
    """Take all the room that the server has."""
    for _ in range(200):
        try:
            await stack.enter_async_context(connect(f"ws{server.address[4:]}/v1/realtime"))
        except InvalidStatus:
            return
    raise RuntimeError("the server was not full after 200 sessions")


async def scene(scenario: str, runs: list[Run], envs: Path, server: Server, wav: str, speed: float) -> None:
    """Run some clients at once through a scenario, and judge them."""
    paths = [wav, wav] if scenario == "two" else [wav]
    limit = 120.0 if scenario == "restart" else 60.0
    async with AsyncExitStack() as stack:
        if scenario == "full":
            await fill(server, stack)
        tasks = [
            asyncio.create_task(play(run, envs / run.client.env / "bin" / "python", server, paths, speed, limit))
            for run in runs
        ]
        if scenario == "restart":
            await asyncio.gather(*(run.begun.wait() for run in runs))
            await asyncio.sleep(0.7)
            os.kill(server.engine(), signal.SIGKILL)
        if scenario == "full":
            await asyncio.gather(*(task for task, run in zip(tasks, runs) if run.client.without_room == "refused"))
            if any(not task.done() for task in tasks):
                await asyncio.sleep(4.0)
            await stack.aclose()
        await asyncio.gather(*tasks)
    left = await server.settled()
    for run in runs:
        run.problem = run.problem or judged(run, "" if left else "a session stayed open")
    if scenario == "restart":
        await ready(server)


async def ready(server: Server) -> None:
    """Wait for a new engine."""
    for _ in range(600):
        try:
            await asyncio.to_thread(server.get, "/readyz")
            return
        except OSError:
            await asyncio.sleep(0.1)
    raise RuntimeError("no engine after a minute")


def judged(run: Run, left: str) -> str:
    """What is wrong with a run."""
    said, expected = words(run.text), " ".join([WORDS] * (2 if run.scenario == "two" else 1))
    if run.scenario == "abrupt":
        return left
    if run.scenario == "full" and run.client.live:
        if run.client.without_room == "refused":
            return "" if run.refused == "503" else f"not refused with 503: {run.refused or said!r}"
        if run.client.without_room == "loses":
            return left if run.refused or said == expected else f"neither refused nor heard: {said!r}"
    if run.refused:
        return f"refused with {run.refused}"
    return left if said == expected else f"heard {said!r}"


async def run_all(
    clients: Sequence[Client], scenarios: Sequence[str], envs: Path, server: Server, speed: float
) -> list[Run]:
    """All clients through all scenarios."""
    samples, rate = soundfile.read(speechmtp.example("reading"), dtype="int16")
    wav = str(envs / "reading.wav")
    soundfile.write(wav, samples, rate)
    found = list[Run]()
    for scenario in scenarios:
        taking = [one for one in clients if one.live or scenario == "one"]
        for start in range(0, len(taking), TOGETHER):
            runs = [Run(client, scenario) for client in taking[start : start + TOGETHER]]
            await scene(scenario, runs, envs, server, wav, speed)
            for run in runs:
                print(f"{run.client.name:28} {scenario:8} {run.seconds:6.1f} s  {run.problem or 'ok'}", flush=True)
            found += runs
    return found


def check_events(envs: Path, names: Sequence[str]) -> list[str]:
    """Stored exchanges against the types of the packages; what is wrong."""
    problems = []
    for name in ("openai", "deepgram"):
        if name in names:
            command = [str(envs / name / "bin" / "python"), str(SCRIPTS / "check_events.py"), name, str(GOLDEN)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""}
            )
            result = "ok" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]
            print(f"{name + ' types':28} {'messages':8} {'':8}  {result}", flush=True)
            problems += [] if done.returncode == 0 else [result]
    return problems


def table(runs: Sequence[Run], scenarios: Sequence[str]) -> str:
    """The results in Markdown: a line a client."""
    lines = [f"| client | version | {' | '.join(scenarios)} |", "|---" * (2 + len(scenarios)) + "|"]
    for client in dict.fromkeys(run.client for run in runs):
        own = {run.scenario: run for run in runs if run.client == client}
        version = next((run.version for run in own.values() if run.version), "?")
        cells = ["" if name not in own else "ok" if not own[name].problem else "FAILED" for name in scenarios]
        lines.append(f"| {client.name} | {version} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Run the clients that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, default=ROOT / ".venv" / "clients", help="folder of the environments")
    parser.add_argument("--only", default=",".join(PACKAGES), help="environments, separated by commas")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="scenarios, separated by commas")
    parser.add_argument("--speed", type=float, default=3.0, help="times real time at which audio is sent (default 3)")
    parser.add_argument(
        "--newest", action="store_true", help="install the newest versions, not those that were checked"
    )
    args = parser.parse_args()
    names, scenarios = args.only.split(","), args.scenarios.split(",")
    for given, known in ((names, list(PACKAGES)), (scenarios, list(SCENARIOS))):
        for one in given:
            if one not in known:
                parser.error(f"{one!r} is none of {', '.join(known)}")
    args.envs.mkdir(parents=True, exist_ok=True)
    prepare(args.envs, names, args.newest)
    problems = check_events(args.envs, names)
    began = time.monotonic()
    server = Server(args.envs / "server.log")
    try:
        clients = [client for client in CLIENTS if client.env in names]
        runs = asyncio.run(run_all(clients, scenarios, args.envs, server, args.speed))
    finally:
        logged = server.stop()
    problems += [run.problem for run in runs if run.problem] + ([f"server log: {logged}"] if logged else [])
    print(f"\n{table(runs, scenarios)}\n\n{len(runs)} runs in {time.monotonic() - began:.0f} s")
    for problem in problems:
        print(f"clients: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
