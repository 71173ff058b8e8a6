"""The server: it checks what it was asked, starts the engines, opens the port, and leaves in order."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.models.locate import locate
from speechmtp.server.admission import capacity, cost_at
from speechmtp.server.config import ServerConfig
from speechmtp.server.guard import Guard
from speechmtp.server.http.connection import HttpConnection
from speechmtp.server.http.site import Site
from speechmtp.server.metrics import Metrics
from speechmtp.server.pool import Pool
from speechmtp.server.port import Port
from speechmtp.server.protocols.table import PROTOCOLS
from speechmtp.server.sockets import Door
from speechmtp.server.transcribing import Transcribing
from speechmtp.server.watch import EngineWatch, SessionWatch

logger = logging.getLogger("speechmtp.server")

LAG = 0.1  # seconds between two looks at how late the event loop is


def run_server(config: ServerConfig, ready: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit code. `ready` gets one line when the server takes clients.

    ConfigError for a port in use, half a pair of TLS files, a host that others can reach without a token, and a model
    that cannot be loaded; nothing was loaded then but for the last.
    """
    context = check_server(config)

    async def run() -> int:
        server, loop = Server(config, sock, context), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop, number)
        if context is not None:
            loop.add_signal_handler(signal.SIGHUP, server.reload)
        return await server.run(ready)

    with bound(config) as sock:
        return asyncio.run(run())


def check_server(config: ServerConfig) -> ssl.SSLContext | None:
    """Check what can be checked before anything is loaded; the TLS context, if there is one."""
    if bool(config.tls_cert) != bool(config.tls_key):
        given, missing = ("--tls-cert", "--tls-key") if config.tls_cert else ("--tls-key", "--tls-cert")
        raise ConfigError(f"{given}: given alone, expected both files of a pair; give {missing} too")
    if not is_loopback(config.host) and not config.tokens:
        raise ConfigError(
            f"--host {config.host}: others can reach it, expected a token then; give --token, or --host 127.0.0.1"
        )
    names = [name for name, _ in config.models]
    for name, model in config.models:
        if names.count(name) > 1:
            raise ConfigError(f"--asr {name}={model}: the name is given twice; give each model its own")
        locate(model)
    return _tls(config)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _tls(config: ServerConfig) -> ssl.SSLContext | None:
    if not config.tls_cert:
        return None
    for option, path in (("--tls-cert", config.tls_cert), ("--tls-key", config.tls_key)):
        if not Path(path).is_file():
            raise ConfigError(f"{option} {path}: no such file; give a file in PEM format")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_pair(context, config)
    return context


def _load_pair(context: ssl.SSLContext, config: ServerConfig) -> None:
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--tls-cert {config.tls_cert}, --tls-key {config.tls_key}: no pair of certificate and key without a "
            f"password ({reason}); give such a pair in PEM format"
        ) from error


def bound(config: ServerConfig) -> socket.socket:
    """A socket on the address; it does not listen yet. ConfigError if it cannot be had."""
    where = f"--host {config.host} --port {config.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"{where}: no such address ({error.strerror}); give one of this machine") from error
    sock = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(256)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{where}: {error.strerror or error}; give another port or address") from error
    return sock


class Server:
    """One run of the server on a bound socket. `stop` and `reload` are called in its event loop."""

    def __init__(self, config: ServerConfig, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        self._config, self._sock, self._context = config, sock, context
        self._signals: list[int] = []
        self._failed = False  # no engine can be started again
        self._signalled = asyncio.Event()
        self.pool: Pool

    async def run(self, ready: Callable[[str], None]) -> int:
        """Serve until `stop`; the exit code."""
        config = self._config
        metrics = Metrics()
        self.pool = pool = Pool(config, lambda reason: metrics.count("engine_restarts_total", reason=reason))
        guard = Guard(config.tokens, config.origins, is_loopback(config.host), config.limits)
        door = Door(
            config, guard, pool, list(PROTOCOLS.values()), lambda name: SessionWatch(metrics, name),
            lambda reason: metrics.count("admission_refused_total", reason=reason),
        )  # fmt: skip
        site = self._site(guard, metrics, pool, door)
        port = Port(guard, config.limits, lambda: HttpConnection(site))
        tasks = [asyncio.create_task(one) for one in (door.watch(), self._measure(metrics, pool, door))]
        try:
            starting = asyncio.create_task(pool.start())
            signalled = asyncio.create_task(self._signalled.wait())
            await asyncio.wait([starting, signalled], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                return self._code
            await starting
            signalled.cancel()
            server = await door.serve(port, self._sock, self._context)
            ready(self._line(pool))
            await self._signalled.wait()
            await self._drain(door, site)
            server.close(close_connections=True, code=1001)
            site.stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait_closed(), 3.0)
            return self._code
        finally:
            for task in tasks:
                task.cancel()
            site.abort()
            await site.transcribing.stop()
            await pool.stop()

    # Signals

    def stop(self, number: int) -> None:
        """Stop as this signal asks for; a second call does not wait for sessions."""
        self._signals.append(number)
        self._signalled.set()

    @property
    def _code(self) -> int:
        if self._failed:
            return 2
        return 130 if self._signals and self._signals[0] == signal.SIGINT else 0

    async def _drain(self, door: Door, site: Site) -> None:
        """Let sessions and uploads come to their end: as long as the configuration says, or at once after Ctrl-C; a
        second signal ends it."""
        seconds = 0.0 if self._signals[0] == signal.SIGINT else self._config.drain
        uploads = site.transcribing.active
        logger.info("stopping: %d sessions and %d uploads have up to %.0f s", len(door.talks), uploads, seconds)
        self._signalled.clear()

        async def drain() -> None:
            await asyncio.gather(door.drain(seconds), site.drain(seconds))

        draining = asyncio.create_task(drain())
        again = asyncio.create_task(self._signalled.wait())
        await asyncio.wait([draining, again], return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, again):
            task.cancel()

    def reload(self) -> None:
        """Read the certificate again; sessions that go on keep the old one."""
        assert self._context is not None
        try:
            _load_pair(self._context, self._config)
            logger.info("the certificate was read again")
        except SpeechMTPError as error:
            logger.error("the certificate stays as it was: %s", error)

    # What is said

    async def _measure(self, metrics: Metrics, pool: Pool, door: Door) -> None:
        """Measure how late the event loop is, and look at the engines, without end."""
        loop, engines = asyncio.get_running_loop(), EngineWatch(metrics, pool)
        while True:
            for _ in range(10):
                due = loop.time() + LAG
                await asyncio.sleep(LAG)
                metrics.observe("event_loop_delay_seconds", max(0.0, loop.time() - due))
            engines.look(full=bool(door.problem()))
            if all(engine.failure for engine in pool.engines):
                logger.error("no engine can be started: %s", pool.engines[0].failure)
                self._failed = True
                self.stop(signal.SIGTERM)
                return

    def _site(self, guard: Guard, metrics: Metrics, pool: Pool, door: Door) -> Site:
        """What the HTTP side stands on."""
        config = self._config

        def models() -> Mapping[str, Sequence[str]]:
            return pool.readiness.models

        transcribing = Transcribing(config.models, config.device, config.limits)
        transcribing.on_loss = lambda: metrics.count("transcriber_restarts_total")
        return Site(
            guard, models, transcribing, door.problem, metrics, config.limits, socket_paths=door.paths,
            strict_models=config.strict_models,
        )  # fmt: skip

    def _line(self, pool: Pool) -> str:
        """The line that says that the server takes clients."""
        config, readiness = self._config, pool.readiness
        host, number = self._sock.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        rooms = [engine.room for engine in pool.engines]
        count = capacity(rooms, config.crowded_step, config.share, config.sessions)
        cost = cost_at(readiness, config.crowded_step)
        names = ", ".join(name for name, _ in config.models)
        workers = f"{config.workers} engine{'s' if config.workers > 1 else ''}"
        return (
            f"speechmtp: {names} at {'https' if self._context else 'http'}://{host}:{number} ({workers} on "
            f"{readiness.device}; {count} people at once who speak all the time, {cost:.2f} s of work a second each)"
        )


def settle_logging() -> None:
    """Log on stderr, a line an event, without audio, text or secrets."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
