"""``storage.mongo.inspect`` against a real server of the protocol: sound, bare, absent, tampered with."""

import asyncio
import json
from pathlib import Path

import pytest
from pymongo import MongoClient

from server.cli.errors import FAILED
from storage.inspection import Finding
from storage.mongo import MongoStore
from storage.mongo.inspect import inspect
from tests.support.commands import SECRET, parley
from tests.support.mongo import MongoServer
from tests.support.ports import free_port


async def looked_at(url: str) -> dict[str, Finding]:
    found = await inspect(url)
    assert all(bool(finding.fix) == (finding.level != "ok") for finding in found)
    return {finding.subject: finding for finding in found}


async def opened_once(url: str) -> None:
    store = MongoStore(url)
    await store.open()
    await store.close()


@pytest.mark.needs("mongo")
async def test_a_store_that_was_opened_has_its_indexes_and_confirms_writes(mongo_url: str) -> None:
    assert (await looked_at(mongo_url))["mongodb indexes"].level == "warning"
    await opened_once(mongo_url)
    found = await looked_at(mongo_url)
    assert found.keys() == {
        "mongodb", "mongodb replicas", "mongodb clock", "mongodb writes", "mongodb indexes", "mongodb access"
    }  # fmt: skip
    for subject in ("mongodb", "mongodb clock", "mongodb writes", "mongodb indexes"):
        assert found[subject].level == "ok", found[subject]


@pytest.mark.needs("mongo")
async def test_looking_leaves_nothing_behind(mongo_url: str) -> None:
    await looked_at(mongo_url)

    def collections() -> list[str]:
        with MongoClient[dict[str, object]](mongo_url) as client:
            return client.get_default_database().list_collection_names()

    assert await asyncio.to_thread(collections) == []


@pytest.mark.needs("mongo")
async def test_an_index_that_is_not_ours_is_a_problem(mongo_url: str) -> None:
    def tamper() -> None:
        with MongoClient[dict[str, object]](mongo_url) as client:
            client.get_default_database().conversations.create_index([("tenant_id", 1)], name="time")

    await asyncio.to_thread(tamper)
    indexes = (await looked_at(mongo_url))["mongodb indexes"]
    assert (indexes.level, "conversations.time" in indexes.message) == ("problem", True)


@pytest.mark.needs("mongo")
async def test_a_single_server_is_told_what_it_lacks(mongo_server: MongoServer) -> None:
    replicas = (await looked_at(mongo_server.url))["mongodb replicas"]
    assert (replicas.level, "rs.initiate" in str(replicas.fix)) == ("warning", True)


@pytest.mark.parametrize("url", ["mongodb://", "mongodb://localhost/parley?w=1"])
async def test_what_cannot_be_used_is_a_problem(url: str) -> None:
    [finding] = await inspect(url)
    assert (finding.level, bool(finding.fix)) == ("problem", True), finding


def test_what_cannot_be_reached_is_a_problem(tmp_path: Path) -> None:
    """In a process of its own: PyMongo leaves a socket open where it is closed while it connects."""
    (tmp_path / "flows").mkdir()
    store = f"mongodb://127.0.0.1:{free_port()}/parley?serverSelectionTimeoutMS=200"
    env = {"PARLEY_STORE": store, "PARLEY_JWT_SECRET": SECRET, "PARLEY_PORT": str(free_port())}
    told = parley("doctor", "--json", cwd=tmp_path, env={**env, "PYTHONWARNINGS": "default"})
    found = {finding["subject"]: finding for finding in json.loads(told.stdout)}
    assert (told.returncode, found["mongodb"]["level"]) == (FAILED, "problem"), told.stderr
    assert found["mongodb"]["fix"].startswith("See that it runs, and that PARLEY_STORE names it")
    assert found["bus"]["level"] == "warning"  # a second instance would not hear of the first


@pytest.mark.needs("mongo")
async def test_access_is_judged_by_the_url(mongo_server: MongoServer) -> None:
    port = mongo_server.port
    assert (await looked_at(f"mongodb://127.0.0.1:{port}"))["mongodb access"].level == "ok"
    # Another way to write this machine's address, which nobody can tell from a name elsewhere.
    other = (await looked_at(f"mongodb://127.1:{port}"))["mongodb access"]
    assert other.level == "warning"
    assert "TLS" in other.message
    assert "credentials" in other.message
