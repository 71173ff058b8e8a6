"""The page's files, read once; a request finds one by its whole path or not at all."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speechmtp.server.http.messages import Reply, Request

FOLDER = Path(__file__).resolve().parents[1] / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}
HEADERS = (
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; worker-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("permissions-policy", "microphone=(self)"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-cache"),  # asked again each time, and answered 304
)


@dataclass(frozen=True)
class Page:
    """A file: its media type, content and tag."""

    kind: str
    content: bytes
    tag: str


def read_pages(folder: Path = FOLDER) -> Mapping[str, Page]:
    """The files below a folder by their paths on the server; `index.html` is `/`. Files of other kinds than pages have
    are left out."""
    found: dict[str, Page] = {}
    for path in sorted(folder.rglob("*")):
        kind = KINDS.get(path.suffix)
        if kind is None or not path.is_file():
            continue
        content = path.read_bytes()
        place = path.relative_to(folder).as_posix()
        page = Page(kind, content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        found[f"/{place}"] = page
        if place == "index.html":
            found["/"] = page
    return found


def send_page(page: Page, request: Request) -> Reply:
    """A file, or 304 where the client has it."""
    headers = [*HEADERS, ("etag", page.tag)]
    known = [one.strip().removeprefix("W/") for one in request.header("if-none-match").split(",")]
    if page.tag in known or "*" in known:
        return Reply(304, headers)
    return Reply(200, [("content-type", page.kind), *headers], page.content)
