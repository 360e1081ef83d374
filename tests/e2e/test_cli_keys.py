"""``parley keys`` while a server has the store, and what a page then gets of it."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from server.cli.errors import CANNOT_START, FAILED, OK, UNREACHABLE, USAGE
from tests.support.commands import SECRET, Dev, parley
from tests.support.ports import free_port
from tests.support.server import SECRET as SERVERS
from tests.support.server import server_process, write_flows

SHOP = "https://shop.example"


def keys(cwd: Path, *arguments: str, env: dict[str, str] | None = None) -> Any:
    done = parley("keys", *arguments, "--json", cwd=cwd, env=env)
    assert done.returncode == OK, done.stderr
    return json.loads(done.stdout)


def visit(url: str, key: str, origin: str = SHOP) -> tuple[int, Any]:
    body = json.dumps({"key": key}).encode()
    headers = {"Content-Type": "application/json", "Origin": origin}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/v1/visitors", body, headers), timeout=10
        ) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_keys_are_managed_while_dev_runs(tmp_path: Path) -> None:
    write_flows(tmp_path)
    before = keys(tmp_path, "create", "--publishable", "--origin", SHOP)
    with Dev(tmp_path) as dev:
        assert visit(dev.url, before["key"])[0] == 201
        made = keys(tmp_path, "create", "--publishable", "--origin", "https://new.example")
        assert visit(dev.url, made["key"], "https://new.example")[0] == 201
        status, refused = visit(dev.url, made["key"])
        assert (status, refused["error"]["code"]) == (403, "origin_not_allowed")
        command = refused["error"]["suggestion"].partition(": ")[2].split()
        assert command[:3] == ["parley", "origins", "add"]
        assert parley(*command[1:], cwd=tmp_path).returncode == OK
        assert visit(dev.url, made["key"])[0] == 201
        assert [key["key_id"] for key in keys(tmp_path, "list")] == [made["key_id"], before["key_id"]]
        assert keys(tmp_path, "list")[0]["created_by"] == "cli"
        keys(tmp_path, "revoke", before["key_id"])
        assert visit(dev.url, before["key"])[0] == 401
        assert parley("keys", "show", "key_none", cwd=tmp_path).returncode == FAILED
    assert keys(tmp_path, "show", before["key_id"])["is_active"] is False


def test_keys_are_managed_while_serve_runs_and_it_is_said_where_it_cannot_be_found(tmp_path: Path) -> None:
    port = free_port()
    with server_process(tmp_path, port=port) as server:
        store = f"sqlite:{tmp_path / 'parley.db'}"
        env = {"PARLEY_STORE": store, "PARLEY_JWT_SECRET": SERVERS, "PARLEY_DEFAULT_TENANT": "t1"}
        there = {**env, "PARLEY_PORT": str(port)}
        made = keys(tmp_path, "create", "--publishable", "--origin", SHOP, env=there)
        assert made["tenant_id"] == "t1"
        assert visit(server.url, made["key"])[0] == 201
        named = keys(tmp_path, "list", "--tenant", "t2", "--url", server.url, env=env)
        assert named == []
        lost = parley("keys", "list", cwd=tmp_path, env={**env, "PARLEY_PORT": "1"})
        assert lost.returncode == UNREACHABLE
        assert f"process {server.process.pid}" in lost.stderr
        assert "name the server by --url" in lost.stderr
        foreign = {**env, "PARLEY_JWT_SECRET": SECRET}
        stranger = parley("keys", "list", "--url", server.url, cwd=tmp_path, env=foreign)
        assert stranger.returncode == UNREACHABLE
        assert "does not take the token" in stranger.stderr


@pytest.mark.needs("mongo", "redis")
def test_a_key_stands_alone_on_standard_output_whatever_is_logged(
    tmp_path: Path, mongo_url: str, redis_url: str
) -> None:
    env = {"PARLEY_STORE": mongo_url, "PARLEY_DEFAULT_TENANT": "t1"}
    for bus in (redis_url, f"redis://127.0.0.1:{free_port()}"):
        create = ("keys", "create", "--publishable", "--origin", SHOP)
        made = parley(*create, cwd=tmp_path, env={**env, "PARLEY_BUS": bus})
        assert made.returncode == OK, made.stderr
        assert re.fullmatch(r"pk_\S+\n", made.stdout)
        assert ("redis_away" in made.stderr) is (bus != redis_url)


@pytest.mark.parametrize("command", [("keys", "list"), ("export",)])
def test_no_tenant_is_guessed_in_a_store_of_several_instances(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """In the file of `dev` there is but one."""
    told = parley(*command, cwd=tmp_path, env={"PARLEY_STORE": f"mongodb://127.0.0.1:{free_port()}/x"})
    assert told.returncode == USAGE
    assert "Give --tenant, or set PARLEY_DEFAULT_TENANT" in told.stderr


@pytest.mark.parametrize("command", [("keys", "list"), ("migrate",)])
def test_a_database_that_is_away_is_told_with_what_to_look_at(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    write_flows(tmp_path)
    store = f"mongodb://127.0.0.1:{free_port()}/x?serverSelectionTimeoutMS=200"
    told = parley(*command, cwd=tmp_path, env={"PARLEY_STORE": store, "PARLEY_DEFAULT_TENANT": "t1"})
    assert told.returncode == CANNOT_START
    assert "PARLEY_STORE names it; `parley doctor` looks closer" in told.stderr
