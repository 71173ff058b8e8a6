"""The small routes: models, health, metrics."""

from speechmtp.server.http.messages import Reply, Request, json_reply
from speechmtp.server.http.site import Site
from speechmtp.server.metrics import HOW
from speechmtp.server.protocols.contract import Refused


def _model(site: Site, name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": int(site.started), "owned_by": "speechmtp"}


async def models(site: Site, request: Request) -> Reply:
    """The models of the server."""
    return json_reply({"object": "list", "data": [_model(site, name) for name in site.models()]})


async def one_model(site: Site, request: Request) -> Reply:
    """One of them. Refused for a name that is none: here no name is another's."""
    name = request.path.removeprefix("/v1/models/")
    if name not in site.models():
        known = ", ".join(site.models())
        raise Refused(404, "model_not_found", f"model: {name[:64]!r}, expected one of {known}", "model")
    return json_reply(_model(site, name))


async def health(site: Site, request: Request) -> Reply:
    """Whether the server runs."""
    return json_reply({"status": "ok"}, headers=_FRESH)


async def ready(site: Site, request: Request) -> Reply:
    """Whether it would take another session now."""
    problem = site.problem()
    return json_reply({"status": problem or "ready"}, 503 if problem else 200, _FRESH)


async def metrics(site: Site, request: Request) -> Reply:
    """What was counted, for Prometheus."""
    site.metrics.set("uploads_active", site.transcribing.active)
    text = site.metrics.text()
    if text is None:
        raise Refused(501, "no_metrics", HOW)
    return Reply(200, [("content-type", "text/plain; version=0.0.4; charset=utf-8"), *_FRESH], text)


_FRESH = (("cache-control", "no-store"),)
