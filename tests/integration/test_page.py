"""The chat page over HTTP: where it is served, how it is kept, and what it cannot hold."""

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator
from email.message import Message
from importlib.resources import files
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.support.server import RunningServer, running_server

POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'"
PAGE = files("server.page")
NAMES = sorted(file.name for file in PAGE.iterdir() if file.name.endswith((".js", ".css", ".svg")))


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path, dev=True, default_tenant="default") as running:
        yield running


async def get(
    server: RunningServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, Message, bytes]:
    request = urllib.request.Request(server.url + path, method=method, headers=headers)

    def fetch() -> tuple[int, Message, bytes]:
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.headers, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    return await asyncio.to_thread(fetch)


async def test_dev_serves_the_page_under_a_policy_without_inline_code(dev: RunningServer) -> None:
    status, headers, body = await get(dev, "/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"].startswith(POLICY)
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert body.startswith(b"<!doctype html>")


@pytest.mark.parametrize("name", NAMES)
async def test_each_file_says_what_it_is_and_is_sent_once(dev: RunningServer, name: str) -> None:
    status, headers, body = await get(dev, f"/page/{name}")
    kinds = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    assert (status, headers["content-type"]) == (200, kinds[name.rpartition(".")[2]])
    assert body == (PAGE / name).read_bytes()
    assert headers["cache-control"] == "no-cache"
    again, head, nothing = await get(dev, f"/page/{name}", **{"If-None-Match": f'"x", W/{headers["etag"]}'})
    assert (again, nothing, head["etag"]) == (304, b"", headers["etag"])
    changed, _, whole = await get(dev, f"/page/{name}", **{"If-None-Match": '"another"'})
    assert (changed, whole) == (200, body)


async def test_what_is_no_file_of_the_page_does_not_exist(dev: RunningServer) -> None:
    for path in ("/page/", "/page/__init__.py", "/page/../app.py", "/page/%2e%2e/app.py", "/index.html"):
        status, headers, _ = await get(dev, path)
        assert (status, headers["cache-control"]) == (404, "no-store")


async def test_the_head_of_the_page_can_be_asked_for(dev: RunningServer) -> None:
    status, headers, body = await get(dev, "/", method="HEAD")
    assert (status, body) == (200, b"")
    assert headers["etag"]


async def test_problems_of_flows_are_told_on_this_machine_only(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "bad.yaml").write_text("flow: bad\nsteps: 7\n")
    async with running_server(tmp_path, dev=True, default_tenant="default") as dev:
        status, headers, body = await get(dev, "/page/problems")
        assert status == 200
        assert re.search(r"bad\.yaml:2:\d+: error ", json.loads(body)["problems"][0])
        assert headers["cross-origin-resource-policy"] == "same-origin"
        refused, _, _ = await get(dev, "/page/problems", Host="evil.example")
        assert refused == 403


async def test_serve_has_no_page(tmp_path: Path) -> None:
    async with running_server(tmp_path, default_tenant="default") as server:
        for path in ("/", "/page/main.js", "/page/problems"):
            assert (await get(server, path))[0] == 404


def test_the_page_asks_for_nothing_but_its_own_files() -> None:
    pages = [(PAGE / name).read_text() for name in ("index.html", "widget.html")]
    html = "".join(pages)
    wanted = re.findall(r'(?:src|href)="/page/([^"]+)"', html)
    wanted.remove("widget.html")
    for name in NAMES:
        text = (PAGE / name).read_text()
        wanted += re.findall(r'from "/page/([^"]+)"', text)
        assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), name
    assert set(wanted) == set(NAMES)
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", html)


def test_no_text_is_ever_read_as_markup_or_code() -> None:
    markup = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|ContextualFragment|srcdoc|setHTML"
    )
    code = r"\beval\b|new Function|set(?:Timeout|Interval)\(['\"]"
    for name in NAMES:
        assert not re.search(f"{markup}|{code}", (PAGE / name).read_text()), name
