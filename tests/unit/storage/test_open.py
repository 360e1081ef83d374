"""URL -> store or bus."""

from pathlib import Path

import pytest

from storage.memory import MemoryBus, MemoryStore
from storage.open import StorageUrlInvalid, check_pair, open_bus, open_store
from storage.redis import RedisBus
from storage.sqlite import SqliteStore


def test_memory_is_a_memory_store_with_the_given_clock() -> None:
    store = open_store("memory:", clock=lambda: 7)
    assert isinstance(store, MemoryStore)
    assert store.now() == 7


def test_sqlite_names_a_file(tmp_path: Path) -> None:
    store = open_store(f"sqlite:{tmp_path}/a.db", clock=lambda: 7)
    assert isinstance(store, SqliteStore)
    assert store.path == tmp_path / "a.db"
    assert store.now() == 7
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_relative_to_the_working_folder() -> None:
    store = open_store("sqlite:parley.db")
    assert isinstance(store, SqliteStore)
    assert store.path == Path.cwd() / "parley.db"


@pytest.mark.parametrize("url", ["storage.memory:MemoryStore", "storage.memory.store.MemoryStore"])
def test_a_factory_is_imported_and_called_with_the_clock(url: str) -> None:
    store = open_store(url, clock=lambda: 7)
    assert isinstance(store, MemoryStore)
    assert store.now() == 7


def test_a_bus_is_opened_likewise() -> None:
    assert isinstance(open_bus("memory:"), MemoryBus)
    assert isinstance(open_bus("storage.memory.bus:MemoryBus"), MemoryBus)
    assert isinstance(open_bus("redis://:p@h:6380/1?prefix=x:"), RedisBus)
    assert isinstance(open_bus("rediss://u:p@h"), RedisBus)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h", "is not known"),
        ("postgres://u:secret@h/db", "sqlite:PATH, mongodb://HOST/DATABASE, memory: or module:factory"),
        ("sqlite:", "names no file"),
        ("sqlite::memory:", "memory:"),
        ("sqlite://parley.db", "right behind the colon"),
        ("sqlite:///srv/parley.db", "right behind the colon"),
        ("memory:x", "nothing goes behind"),
        ("", "sqlite:PATH"),
        ("parley", "sqlite:PATH"),
        ("parley.db", "cannot import"),
        ("no_such_module:make", "cannot import no_such_module"),
        ("storage.memory:missing", "has no missing"),
        ("storage.models:RING_SIZE", "not callable"),
        ("storage.memory:", "sqlite:PATH"),
        (":make", "sqlite:PATH"),
    ],
)
def test_a_wrong_store_url_is_refused_with_what_would_be_right(url: str, said: str) -> None:
    with pytest.raises(StorageUrlInvalid) as caught:
        open_store(url)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "redis://[[USER]:PASSWORD@]HOST"),
        ("redis://:secret@", "redis://[[USER]:PASSWORD@]HOST"),
        ("redis://u:secret@h:port", "redis://[[USER]:PASSWORD@]HOST"),
        ("redis://:secret@h/one", "by a number"),
        ("redis://:secret@h/1?db=2", "by a number"),
        ("redis://:secret@h?ssl_ca_certs=ca.pem", "rediss://"),
        ("rediss://:secret@h?ssl_cert_reqs=perhaps", "required or none"),
        ("rediss://:secret@h?ssl_keyfile=k.pem", "ssl_certfile"),
        ("redis://:secret@h?timeout=secret", "known are"),
        ("sqlite:x", "cannot import"),
        ("memory:1", "nothing goes behind"),
        ("nats://u:secret@h", "PARLEY_BUS=nats://..."),
    ],
)
def test_a_wrong_bus_url_is_refused_with_what_would_be_right(url: str, said: str) -> None:
    with pytest.raises(StorageUrlInvalid) as caught:
        open_bus(url)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("store", ["sqlite:parley.db", "memory:"])
@pytest.mark.parametrize("bus", ["redis://h", "rediss://h"])
def test_an_embedded_store_with_a_networked_bus_is_refused(store: str, bus: str) -> None:
    with pytest.raises(StorageUrlInvalid, match=r"PARLEY_BUS=memory:.*PARLEY_STORE=mongodb"):
        check_pair(store, bus)


@pytest.mark.parametrize(
    ("store", "bus"),
    [("sqlite:parley.db", "memory:"), ("mongodb://h", "redis://h"), ("my.module:make", "redis://h")],
)
def test_other_pairs_pass(store: str, bus: str) -> None:
    check_pair(store, bus)
