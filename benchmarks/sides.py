"""Sides that are compared: a checkout of this repository each, and how its kernels are chosen. Each runs in a process
of its own that answers requests one by one."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from speechmtp.errors import ConfigError, SpeechMTPError

HERE = Path(__file__).parent
T = TypeVar("T")


class Worker:
    """The process of a checkout. It runs `script`, a file of this folder, with the checkout's package on one thread and
    with `settings` in its environment (empty ones are taken out of it), on `cores` alone if any are given; a request is
    a JSON object a line on its standard input, and so is an answer on its standard output. ConfigError for a folder
    that is no checkout, and where the process ends."""

    def __init__(
        self, checkout: Path, script: str = "checkout.py", settings: Mapping[str, str] | None = None,
        cores: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.checkout = checkout.resolve()
        if not (self.checkout / "speechmtp" / "__init__.py").exists():
            raise ConfigError(f"{checkout}: not a checkout, it has no speechmtp/; make one with git worktree add")
        own = {"PYTHONPATH": str(self.checkout), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment = os.environ | own | dict(settings or {})
        environment = {name: value for name, value in environment.items() if value or name not in (settings or {})}
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []
        self.process = subprocess.Popen(
            [*pinned, sys.executable, str(HERE / script)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def tell(self, **request: Any) -> None:
        """Send a request; its answer is to be taken by `hear`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `hear` says so

    def hear(self, about: object = "a request") -> dict[str, Any]:
        """The answer to the oldest request that has none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ConfigError(f"{self.checkout}: its process ended at {about}; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ConfigError(f"{self.checkout}: {answer['error']}")
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request."""
        self.tell(**request)
        return self.hear(request)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    @property
    def commit(self) -> str:
        """Its commit, and whether files differ from it."""
        return commit_of(self.checkout)


@dataclass(frozen=True)
class Side:
    """A name in tables, a checkout, and `SPEECHMTP_KERNELS` for its process (empty: as the environment has it)."""

    name: str
    checkout: Path
    kernels: str = ""
    more: Mapping[str, str] = field(default_factory=dict)  # other settings

    @classmethod
    def parse(cls, text: str) -> "Side":
        """From `NAME=CHECKOUT` or `NAME=CHECKOUT,KERNELS`; ConfigError for anything else."""
        name, equals, rest = text.partition("=")
        folder, _, kernels = rest.partition(",")
        if not (name and equals and folder):
            raise ConfigError(f"side {text!r}: expected NAME=CHECKOUT or NAME=CHECKOUT,KERNELS")
        return cls(name, Path(folder), kernels)

    @property
    def settings(self) -> dict[str, str]:
        """What the environment of its process has besides."""
        return {**({"SPEECHMTP_KERNELS": self.kernels} if self.kernels else {}), **self.more}

    def worker(self, script: str, cores: Sequence[int] = ()) -> Worker:
        """Its process."""
        return Worker(self.checkout, script, self.settings, cores)

    @property
    def told(self) -> str:
        """Commit and kernels, for the lines below a table."""
        return commit_of(self.checkout) + (f", SPEECHMTP_KERNELS={self.kernels}" if self.kernels else "")


def parse_sides(texts: Sequence[str]) -> list[Side]:
    """Sides by their options; ConfigError for two of one name."""
    found = [Side.parse(text) for text in texts]
    names = [side.name for side in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"side {twice[0]}: given twice, expected each name once")
    return found


def commit_of(checkout: Path) -> str:
    """A checkout's commit, and whether files differ from it."""
    git = ["git", "-C", str(checkout)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout
    return f"{name or 'unknown'}{' with changes' if changed else ''}"


def package_of(checkout: Path) -> str | None:
    """What git calls the content of a checkout's package; None where files differ from it, or nothing is known."""
    git = ["git", "-C", str(checkout)]
    changed = subprocess.run([*git, "status", "--porcelain", "--", "speechmtp"], capture_output=True, text=True)
    name = subprocess.run([*git, "rev-parse", "HEAD:speechmtp"], capture_output=True, text=True).stdout.strip()
    return None if changed.returncode or changed.stdout or not name else name


def turns(items: Sequence[T], number: int) -> Iterator[T]:
    """The items in the order of turn `number`: each is first as often as the others, and every second turn goes
    backwards."""
    first = number // 2 % len(items) if items else 0
    order = [*items[first:], *items[:first]]
    return iter(order[::-1] if number % 2 else order)


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def facts_below(facts: Mapping[str, Any]) -> str:
    """Lines below a table."""
    return "".join(f"- {key}: {value}\n" for key, value in facts.items())


def answer_all(serve: Callable[[Iterator[dict[str, Any]]], Iterator[dict[str, Any]]]) -> None:
    """Answer the requests on standard input; the answers alone go to standard output, whatever else is printed goes to
    standard error. The error of a user is an answer, the last one."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        for answer in serve(json.loads(line) for line in sys.stdin):
            print(json.dumps(answer), file=out, flush=True)
    except SpeechMTPError as error:
        print(json.dumps({"error": str(error)}), file=out, flush=True)
