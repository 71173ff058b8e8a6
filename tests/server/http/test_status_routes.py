"""The page's files, models, health and metrics over a real socket."""

import sys
from pathlib import Path

import pytest
from http_runs import serving

from speechmtp.server.http.pages import HEADERS, read_pages
from speechmtp.server.metrics import LABELS, METRICS, Metrics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A page."""
    page = tmp_path / "page"
    (page / "deep").mkdir(parents=True)
    (page / "index.html").write_text("<p>hello")
    (page / "deep" / "a.js").write_text("1")
    (page / "secret.py").write_text("x")
    (tmp_path / "out.html").write_text("x")
    return page


def test_pages(folder: Path) -> None:
    with serving(pages=read_pages(folder), tokens=["t"]) as served:
        found = served.ask("GET", "/")
        assert (found.status, found.body) == (200, b"<p>hello"), "the page itself needs no token"
        assert found.headers["content-type"] == "text/html; charset=utf-8"
        assert {name: found.headers[name] for name, _ in HEADERS} == dict(HEADERS)
        assert served.ask("GET", "/index.html").body == found.body
        assert served.ask("GET", "/deep/a.js").headers["content-type"].startswith("text/javascript")
        for tag in (found.headers["etag"], f'W/{found.headers["etag"]}, "x"', "*"):
            again = served.ask("GET", "/", headers={"if-none-match": tag})
            assert (again.status, again.body) == (304, b"")
        assert served.ask("GET", "/", headers={"if-none-match": '"x"'}).status == 200
        assert served.ask("HEAD", "/").headers["content-length"] == "8"
        assert served.ask("POST", "/").status == 405
        for path in ("/secret.py", "/deep/../secret.py", "/../out.html", "/%2e%2e/out.html", "/deep", "/deep/", "//"):
            assert served.ask("GET", path, headers={"xi-api-key": "t"}).status == 404, path


def test_models() -> None:
    with serving(languages={"base": ("en",), "owner/name": ()}) as served:
        listed = served.ask("GET", "/v1/models").json()
        assert listed["object"] == "list" and [one["id"] for one in listed["data"]] == ["base", "owner/name"]
        one = served.ask("GET", "/v1/models/owner%2Fname").json()
        assert one == listed["data"][1] == served.ask("GET", "/v1/models/owner/name").json()
        assert {name: type(value) for name, value in one.items()} == {
            "id": str, "object": str, "created": int, "owned_by": str,
        }  # fmt: skip
        missing = served.ask("GET", "/v1/models/whisper-1")
        assert (missing.status, missing.code) == (404, "model_not_found")


def test_health() -> None:
    with serving(tokens=["t"], problem="full") as served:
        assert served.ask("GET", "/healthz").json() == {"status": "ok"}
        found = served.ask("GET", "/readyz")
        assert (found.status, found.json()) == (503, {"status": "full"})
    with serving() as served:
        assert served.ask("GET", "/readyz").json() == {"status": "ready"}


def test_tokens_are_asked_for_everywhere_else() -> None:
    with serving(tokens=["t"]) as served:
        for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/audio/transcriptions"),
                             ("GET", "/nowhere"), ("GET", "/v1/realtime"), ("GET", "/v1/models/x")):  # fmt: skip
            found = served.ask(method, path, headers={"authorization": "Bearer wrong"})
            assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer"), path
            assert found.body == served.ask("GET", "/v1/models").body
        assert served.ask("GET", "/v1/models", headers={"authorization": "Bearer t"}).status == 200
        assert served.ask("GET", "/v1/models?token=t").status == 200


def test_a_token_has_so_many_requests_at_once() -> None:
    with serving(tokens=["t"], connections_token=1) as served:
        passed = served.site.guard.check([("xi-api-key", "t")], {}, "", 0.0)
        served.site.guard.enter(passed)
        found = served.ask("GET", "/v1/models", headers={"xi-api-key": "t"})
        assert (found.status, found.headers["retry-after"]) == (503, "5")
        served.site.guard.leave(passed)
        assert served.ask("GET", "/v1/models", headers={"xi-api-key": "t"}).status == 200


def test_metrics() -> None:
    with serving() as served:
        served.ask("GET", "/nowhere")
        served.ask("GET", "/healthz")
        found = served.ask("GET", "/metrics")
        assert found.headers["content-type"].startswith("text/plain")
        text = found.body.decode()
        assert 'speechmtp_http_requests_total{code="404",route="none"} 1.0' in text
        assert 'speechmtp_http_requests_total{code="200",route="health"} 1.0' in text
        assert all(f"speechmtp_{name}" in text for name in METRICS)


def test_labels_are_bounded() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.count("http_requests_total", route=f"/x{number}", code=str(number))
        metrics.count("sessions_total", protocol="p", outcome=f"o{number}")
    lines = (metrics.text() or b"").decode().splitlines()
    assert sum("http_requests_total{" in line for line in lines) == 1
    assert 'speechmtp_sessions_total{outcome="other",protocol="other"} 100.0' in lines
    with pytest.raises(KeyError):
        metrics.count("no_such_total")
    assert {label for metric in METRICS.values() for label in metric.labels} == set(LABELS)


def test_without_the_package_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with serving() as served:
        found = served.ask("GET", "/metrics")
        assert (found.status, found.code) == (501, "no_metrics") and "speechmtp[server]" in found.body.decode()
        served.site.metrics.observe("first_token_seconds", 1.0)
