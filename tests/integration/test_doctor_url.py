"""``parley doctor --url``: what a proxy does to sockets and secrets shows from a client's side."""

import asyncio
import json
from pathlib import Path

import pytest

from server.cli import proxy
from server.cli.target import Target
from storage.inspection import Finding
from tests.support.balancer import balancer
from tests.support.commands import parley
from tests.support.ports import free_port
from tests.support.server import SECRET, running_server

BLIND = """
pid nginx.pid;
events {}
http {
    access_log off;
    server {
        listen 127.0.0.1:PORT;
        location / { proxy_pass http://127.0.0.1:SERVER; }
    }
}
"""


async def looked_at(url: str) -> dict[str, Finding]:
    found = await asyncio.to_thread(lambda: list(proxy.findings(Target(url))))
    assert all(bool(finding.fix) == (finding.level != "ok") for finding in found)
    return {finding.subject: finding for finding in found}


@pytest.mark.needs("nginx")
async def test_behind_our_own_configuration_everything_is_fine(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        with balancer(tmp_path, [server.address]) as nginx:
            found = await looked_at(nginx.url)
    assert {finding.level for finding in found.values()} == {"ok"}
    assert found.keys() == {"url", "url encryption", "url metrics", "url clock", "url upgrade"}
    assert found["url metrics"].message == "not published"


@pytest.mark.needs("nginx")
async def test_a_proxy_that_does_not_pass_the_upgrade_on_is_found(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        port = free_port()
        blind = tmp_path / "blind.conf"
        blind.write_text(BLIND.replace("PORT", str(port)).replace("SERVER", str(server.address[1])))
        with balancer(tmp_path, [server.address], configuration=blind, port=port) as nginx:
            found = await looked_at(nginx.url)
    assert found["url"].level == "ok"
    assert found["url upgrade"].level == "problem"
    assert "Upgrade" in str(found["url upgrade"].fix)


async def test_what_others_can_read_is_told_where_it_is_not_this_machine_only(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        local = await looked_at(server.url)
        # Another way to write this machine's address, which nobody can tell from a name elsewhere.
        other = await looked_at(f"http://127.1:{server.address[1]}")
    assert local["url encryption"].level == local["url metrics"].level == "ok"
    assert other["url encryption"].level == other["url metrics"].level == "warning"


async def test_a_server_that_is_not_there_and_a_wrong_tls_are_found(tmp_path: Path) -> None:
    gone = await looked_at(f"http://127.0.0.1:{free_port()}")
    assert gone["url"].level == "problem"
    async with running_server(tmp_path) as server:
        plain = await looked_at(server.url.replace("http:", "https:"))
        assert "TLS is not accepted" in plain["url"].message


async def test_the_command_takes_the_url(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        env = {"PARLEY_JWT_SECRET": SECRET, "PARLEY_STORE": "memory:", "PARLEY_PORT": str(free_port())}
        told = await asyncio.to_thread(parley, "doctor", "--json", "--url", server.url, cwd=tmp_path, env=env)
    found = {finding["subject"]: finding for finding in json.loads(told.stdout)}
    assert (told.returncode, found["url upgrade"]["level"]) == (0, "ok"), told.stdout
    wrong = await asyncio.to_thread(parley, "doctor", "--url", "ftp://x", cwd=tmp_path)
    assert (wrong.returncode, "is no address of a server" in wrong.stderr) == (2, True)
