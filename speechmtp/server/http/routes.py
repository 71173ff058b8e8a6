"""Which handler answers which request, and what is said when none does."""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from speechmtp.server.http.listen import dg_refusal, listen, no_listen
from speechmtp.server.http.messages import Reply, Request, refusal
from speechmtp.server.http.pages import send_page
from speechmtp.server.http.site import Site
from speechmtp.server.http.status import health, metrics, models, one_model, ready
from speechmtp.server.http.transcriptions import transcriptions
from speechmtp.server.protocols.contract import Refused

logger = logging.getLogger("speechmtp.server")

_GONE = 499  # what requests whose client left are counted as

Handler = Callable[[Site, Request], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """A path's handlers by method, its name in metrics, whether it needs no token and has a line in the log, and how
    refusals are written."""

    name: str
    handlers: Mapping[str, Handler]
    free: bool = False
    logged: bool = False
    refuse: Callable[[Site, Refused], Reply] = lambda site, refused: refusal(refused)


async def _page(site: Site, request: Request) -> Reply:
    return send_page(site.pages[request.path], request)


ROUTES: Mapping[str, Route] = {
    "/v1/audio/transcriptions": Route("transcriptions", {"POST": transcriptions}, logged=True),
    "/v1/listen": Route("listen", {"POST": listen}, logged=True, refuse=dg_refusal),
    "/v2/listen": Route("listen_v2", {"POST": no_listen, "GET": no_listen}, refuse=dg_refusal),
    "/v1/models": Route("models", {"GET": models}),
    "/healthz": Route("health", {"GET": health}, free=True),
    "/readyz": Route("ready", {"GET": ready}, free=True),
    "/metrics": Route("metrics", {"GET": metrics}),
}
_MODELS = Route("models", {"GET": one_model})
_PAGE = Route("page", {"GET": _page}, free=True)
_NONE = Route("none", {})
_SOCKET = Route("socket", {})


def route_of(site: Site, path: str) -> Route:
    """The route of a path."""
    if path in ROUTES:
        return ROUTES[path]
    if path in site.pages:  # as they were found when the server started
        return _PAGE
    if path.startswith("/v1/models/"):
        return _MODELS
    return _SOCKET if path in site.socket_paths else _NONE


@asynccontextmanager
async def serve(site: Site, request: Request) -> AsyncIterator[Reply]:
    """Answer a request; the reply is closed with the context. Whatever goes wrong becomes an answer too."""
    route, began = route_of(site, request.path), time.monotonic()
    async with AsyncExitStack() as stack:
        status = [_GONE]
        stack.callback(_note, site, route, began, status)
        try:
            passed = site.guard.check(request.headers, request.query, request.address, time.monotonic(), route.free)
            site.guard.enter(passed)
            stack.callback(site.guard.leave, passed)
            reply = await _handler(site, route, request)(site, request)
            stack.push_async_callback(reply.aclose)
        except Refused as refused:
            reply = _refused(site, route, request, refused)
        except Exception:
            logger.exception("http: %s failed", route.name)
            reply = route.refuse(site, Refused(500, "server_error", "the server failed; see its log"))
        yield reply
        status[0] = reply.status


def _note(site: Site, route: Route, began: float, status: list[int]) -> None:
    """Count a request that is over, and log those of files."""
    site.metrics.count("http_requests_total", route=route.name, code=str(status[0]))
    if route.logged:
        logger.info("http: %s, %.1f s: %d", route.name, time.monotonic() - began, status[0])


def _refused(site: Site, route: Route, request: Request, refused: Refused) -> Reply:
    reply = route.refuse(site, refused)
    if refused.status in (405, 426):
        allowed = list(route.handlers) + ["HEAD"] * ("GET" in route.handlers) + ["GET"] * _is_socket(site, request)
        headers = [("allow", ", ".join(dict.fromkeys(allowed)))]
        headers += [("upgrade", "websocket")] * (refused.status == 426)
        return replace(reply, headers=[*reply.headers, *headers])
    return reply


def _is_socket(site: Site, request: Request) -> bool:
    return request.path in site.socket_paths


def _handler(site: Site, route: Route, request: Request) -> Handler:
    """The handler of a request's method. Refused if there is none."""
    method = "GET" if request.method == "HEAD" else request.method
    if method in route.handlers:
        return route.handlers[method]
    if method == "GET" and _is_socket(site, request):
        raise Refused(426, "upgrade_required", f"{request.path}: expected a websocket here; connect with one")
    if not route.handlers and not _is_socket(site, request):
        raise Refused(404, "not_found", "no such path here; see docs/serving.md for those that there are")
    raise Refused(405, "method_not_allowed", f"{request.method[:16]}: not a method of this path; see the header Allow")
