"""``storage.redis.inspect`` against real servers that are set up well and badly."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.inspection import Finding, access, clocks, is_local
from storage.redis.inspect import inspect
from tests.support.ports import free_port
from tests.support.redis import RedisServer


def looked_at(url: str) -> dict[str, Finding]:
    return {finding.subject: finding for finding in asyncio.run(inspect(url))}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[list[RedisServer]]:
    started: list[RedisServer] = []
    yield started
    for server in started:
        server.stop()


@pytest.mark.needs("redis")
def test_a_redis_as_we_deploy_it_has_no_finding_to_mend(tmp_path: Path, start: list[RedisServer]) -> None:
    server = RedisServer(
        tmp_path, maxmemory="256mb", maxmemory_policy="noeviction",
        client_output_buffer_limit="pubsub 64mb 16mb 30",
    ).start()  # fmt: skip
    start.append(server)
    found = looked_at(server.url)
    assert found.keys() == {"redis", "redis eviction", "redis buffers", "redis clock", "redis access"}
    assert {finding.level for finding in found.values()} == {"ok"}


@pytest.mark.needs("redis")
def test_a_redis_that_evicts_and_cuts_off_early_is_told_of(tmp_path: Path, start: list[RedisServer]) -> None:
    server = RedisServer(
        tmp_path, maxmemory="64mb", maxmemory_policy="allkeys-lru",
        client_output_buffer_limit="pubsub 1mb 512kb 5",
    ).start()  # fmt: skip
    start.append(server)
    found = looked_at(server.url)
    assert found["redis eviction"].level == found["redis buffers"].level == "warning"
    assert "allkeys-lru" in found["redis eviction"].message
    assert "CONFIG SET client-output-buffer-limit" in str(found["redis buffers"].fix)
    with server.client() as client:
        client.config_set("client-output-buffer-limit", "pubsub 0 0 0")
        client.config_set("maxmemory", 0)
    found = looked_at(server.url)
    assert "no hard limit" in found["redis buffers"].message
    assert found["redis eviction"].level == "ok"  # without a limit there is nothing to evict


@pytest.mark.needs("redis")
def test_wrong_credentials_are_a_problem_and_an_absent_server_a_warning(
    tmp_path: Path, start: list[RedisServer]
) -> None:
    server = RedisServer(tmp_path, password="right").start()
    start.append(server)
    wrong = looked_at(f"redis://:wrong@127.0.0.1:{server.port}")["redis"]
    assert (wrong.level, bool(wrong.fix)) == ("problem", True)
    assert "wrong" not in f"{wrong.message}{wrong.fix}".replace("what is wrong", "")
    away = looked_at(f"redis://127.0.0.1:{free_port()}")["redis"]
    assert (away.level, bool(away.fix)) == ("warning", True)  # an instance starts without it, and says so
    assert looked_at("redis://")["redis"].level == "problem"


@pytest.mark.needs("redis")
def test_what_a_server_does_not_tell_is_said_to_be_looked_up(
    tmp_path: Path, start: list[RedisServer]
) -> None:
    server = RedisServer(tmp_path).start()
    start.append(server)
    with server.client() as client:
        client.acl_setuser("guest", enabled=True, nopass=True, commands=["+info", "+time"])
    found = looked_at(f"redis://guest:any@127.0.0.1:{server.port}")
    assert found["redis buffers"].level == "warning"
    assert "does not tell" in found["redis buffers"].message


def test_clocks_that_are_apart_are_told() -> None:
    assert clocks("x", 100.0, 101.0).level == "ok"
    assert "agree" in clocks("x", 100.0, 101.9, exact_to_s=2).message
    apart = clocks("x", 100.0, 3700.0, exact_to_s=2)
    assert (apart.level, apart.message) == ("warning", "its clock is 3600 seconds away from this one")


@pytest.mark.parametrize(
    ("local", "encrypted", "credentials", "level"),
    [(True, False, False, "ok"), (False, True, True, "ok"), (False, False, True, "warning"),
     (False, True, False, "warning"), (False, False, False, "warning")],
)  # fmt: skip
def test_what_is_open_to_others_is_told(local: bool, encrypted: bool, credentials: bool, level: str) -> None:
    found = access(
        "x", local=local, encrypted=encrypted, credentials=credentials, setting="PARLEY_BUS", form="rediss://"
    )
    assert (found.level, bool(found.fix)) == (level, level != "ok")


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("[::1]", True), ("/tmp/mongodb.sock", True),
     ("10.0.0.1", False), ("redis", False)],
)  # fmt: skip
def test_what_is_on_this_machine(host: str, local: bool) -> None:
    assert is_local(host) is local
