"""What a server refuses to start with: one sentence that mends it, within seconds, and an exit code."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.mongo import MongoServer
from tests.support.ports import free_port
from tests.support.redis import RedisServer
from tests.support.server import server_process

CANNOT_START, USAGE = 3, 2
SOON_S = 15
"""Time-outs of drivers, and the start of a Python process on a busy machine."""


def refused(folder: Path, code: int, *says: str, **env: Any) -> None:
    """Start a server with these settings and see it refuse."""
    with server_process(folder, wait_s=0, **env) as server:
        assert server.process.wait(SOON_S) == code, server.log.read_text()
        log = server.log.read_text()
    for text in says:
        assert text in log
    assert "Traceback" not in log
    assert "canary" not in log  # the password of every URL here


def test_a_mongodb_that_cannot_be_reached(tmp_path: Path) -> None:
    url = f"mongodb://u:canary@127.0.0.1:{free_port()}/p?serverSelectionTimeoutMS=500"
    refused(tmp_path, CANNOT_START, "MongoDB can be reached", "see that it runs", PARLEY_STORE=url)


def test_a_mongodb_url_that_is_none(tmp_path: Path) -> None:
    url = "mongodb://u:canary@h:notaport/p"
    refused(tmp_path, CANNOT_START, "mongodb://USER:PASSWORD@HOST:27017/parley", PARLEY_STORE=url)


@pytest.mark.needs("mongo")
def test_a_mongodb_that_is_too_old(tmp_path: Path) -> None:
    place = tmp_path / "mongo"
    place.mkdir()
    server = MongoServer(place, version=4, wire=13).start()
    try:
        refused(tmp_path, CANNOT_START, "6.0", PARLEY_STORE=server.url + "/p")
    finally:
        server.stop()


@pytest.mark.needs("redis")
def test_a_redis_that_wants_another_password(tmp_path: Path) -> None:
    place = tmp_path / "redis"
    place.mkdir()
    server = RedisServer(place, password="right").start()
    try:
        refused(
            tmp_path, CANNOT_START, "PARLEY_BUS",
            PARLEY_STORE="tests.support.cluster:own_store",
            PARLEY_BUS=f"redis://:canary@127.0.0.1:{server.port}",
        )  # fmt: skip
    finally:
        server.stop()


def test_a_redis_url_that_is_none(tmp_path: Path) -> None:
    refused(
        tmp_path, CANNOT_START, "PARLEY_BUS",
        PARLEY_STORE="tests.support.cluster:own_store", PARLEY_BUS="redis://:canary@h:notaport",
    )  # fmt: skip


@pytest.mark.parametrize("store", ["sqlite:parley.db", "memory:"])
def test_an_embedded_store_with_a_bus_for_several(tmp_path: Path, store: str) -> None:
    refused(
        tmp_path, USAGE, "leave PARLEY_BUS unset, or set PARLEY_STORE to mongodb://...",
        PARLEY_STORE=store, PARLEY_BUS="redis://:canary@127.0.0.1:1",
    )  # fmt: skip


def test_a_sqlite_file_that_another_server_has(tmp_path: Path) -> None:
    with server_process(tmp_path):
        refused(tmp_path, CANNOT_START, "parley.db", "mongodb://")


@pytest.mark.needs("mongo")
def test_a_redis_that_is_away_is_no_reason_not_to_start(tmp_path: Path, mongo_url: str) -> None:
    bus = f"redis://127.0.0.1:{free_port()}"
    with server_process(tmp_path, PARLEY_STORE=mongo_url, PARLEY_BUS=bus) as server:
        assert server.terminate() == 0
        assert "Traceback" not in server.log.read_text()
