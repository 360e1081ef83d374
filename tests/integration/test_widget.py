"""The widget's files over HTTP: who may load them, how they are kept, and what a cached launcher meets."""

import gzip
import json
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import pytest

from tests.integration.test_page import get
from tests.support.server import RunningServer, running_server

BUILT = files("server.widget")
PARTS: dict[str, str] = json.loads((BUILT / "files.json").read_text("utf-8"))["parts"]
PATHS = ["/widget.js", *(f"/widget/{name}" for name in PARTS.values())]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path) as running:
        yield running


def built(path: str) -> bytes:
    return (BUILT / path.rpartition("/")[2]).read_bytes()


@pytest.mark.parametrize("path", PATHS)
async def test_any_page_may_load_it_and_gets_it_compressed(server: RunningServer, path: str) -> None:
    status, headers, body = await get(server, path, origin="https://shop.example")
    assert (status, body) == (200, built(path))
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["vary"] == "accept-encoding"
    status, packed, body = await get(server, path, **{"accept-encoding": "br, gzip;q=0.5"})
    assert packed["content-encoding"] == "gzip"
    assert gzip.decompress(body) == built(path)
    assert packed["etag"] != headers["etag"]
    status, plain, body = await get(server, path, **{"accept-encoding": "gzip;q=0, br"})
    assert plain["content-encoding"] is None


@pytest.mark.parametrize("path", PATHS)
async def test_what_a_browser_has_is_not_sent_again(server: RunningServer, path: str) -> None:
    _, headers, _ = await get(server, path)
    status, again, body = await get(server, path, **{"if-none-match": f"W/{headers['etag']}"})
    assert (status, body) == (304, b"")
    assert again["cache-control"] == headers["cache-control"]
    assert again["access-control-allow-origin"] == "*"


async def test_the_launcher_is_asked_for_again_soon_and_its_parts_never(server: RunningServer) -> None:
    ages = [(await get(server, path))[1].get_all("cache-control") for path in PATHS]
    assert ages == [["public, max-age=300"]] + [["public, max-age=31536000, immutable"]] * len(PARTS)


@pytest.mark.parametrize("part", PARTS)
async def test_a_launcher_of_another_version_gets_the_present_parts(server: RunningServer, part: str) -> None:
    status, headers, body = await get(server, f"/widget/{part}-000000000000.js")
    assert (status, headers["cache-control"]) == (200, "no-cache")
    assert body == built(PARTS[part])


@pytest.mark.parametrize(
    "path", ["/widget/files.json", "/widget/", "/widget/other-1.js", "/widget/../app.py"]
)
async def test_nothing_else_is_there(server: RunningServer, path: str) -> None:
    assert (await get(server, path))[0] == 404
