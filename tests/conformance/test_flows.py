"""Flows: versions are numbered, immutable and never lost."""

import asyncio
from dataclasses import replace

import pytest

from storage.base import Store
from storage.models import Flow, FlowVersion
from tests.conformance.conftest import Clock
from tests.support.records import NOW, TENANT


def version(sha256: str = "a", flow_id: str = "book") -> FlowVersion:
    return FlowVersion(
        TENANT, flow_id, 0, sha256, f"flow: {flow_id} # {sha256}", f"flows/{flow_id}.yaml", "l", "u"
    )


async def publish(
    store: Store, new: FlowVersion, name: str = "Book", is_default: bool = False
) -> FlowVersion:
    return await store.publish(new, name=name, description="d", is_default=is_default)


async def test_versions_are_numbered_from_one(store: Store) -> None:
    first, second = await publish(store, version("a")), await publish(store, version("b"))
    assert (first.version, second.version) == (1, 2)
    assert first == replace(version("a"), version=1, published_at=NOW)
    assert await store.flow_version(TENANT, "book", 1) == first
    assert await store.flow_version(TENANT, "book", 2) == second
    assert await store.flow_version(TENANT, "book", 3) is None
    assert await store.flow_version(TENANT, "book", 0) is None


async def test_the_same_source_is_not_a_new_version(store: Store, clock: Clock) -> None:
    first = await publish(store, version("a"))
    clock.ms += 1000
    assert await publish(store, version("a"), name="Renamed", is_default=True) == first
    assert await store.flows(TENANT) == [
        Flow(TENANT, "book", "Renamed", "d", "active", True, 1, NOW, NOW + 1000, NOW)
    ]


async def test_a_source_that_comes_back_is_a_new_version(store: Store) -> None:
    numbers = [(await publish(store, version(sha256))).version for sha256 in "abab"]
    assert numbers == [1, 2, 3, 4]


async def test_a_given_time_of_publishing_is_kept(store: Store) -> None:
    published = await publish(store, replace(version(), published_at=5))
    assert published.published_at == 5
    assert (await store.flows(TENANT))[0].published_at == 5


async def test_a_tenant_has_one_default_flow(store: Store) -> None:
    await publish(store, version(flow_id="a"), is_default=True)
    await publish(store, version(flow_id="b"), is_default=True)
    await publish(store, version(flow_id="c"))
    assert [(f.flow_id, f.is_default) for f in await store.flows(TENANT)] == [
        ("a", False),
        ("b", True),
        ("c", False),
    ]
    await publish(store, version(flow_id="b"))
    assert not any(f.is_default for f in await store.flows(TENANT))


async def test_an_archived_flow_is_not_listed_but_its_versions_stay(store: Store) -> None:
    first = await publish(store, version(), is_default=True)
    assert await store.archive_flow(TENANT, "book")
    assert await store.flows(TENANT) == []
    assert await store.flow_version(TENANT, "book", 1) == first
    assert not await store.archive_flow(TENANT, "book")
    assert not await store.archive_flow(TENANT, "missing")


@pytest.mark.parametrize(("sha256", "number"), [("a", 1), ("b", 2)])
async def test_publishing_brings_an_archived_flow_back(store: Store, sha256: str, number: int) -> None:
    await publish(store, version("a"), is_default=True)
    await store.archive_flow(TENANT, "book")
    assert (await publish(store, version(sha256))).version == number
    (flow,) = await store.flows(TENANT)
    assert (flow.status, flow.is_default, flow.latest_version) == ("active", False, number)


async def test_publishing_at_once_gives_each_source_its_number(store: Store) -> None:
    published = await asyncio.gather(*(publish(store, version(f"{n % 10}")) for n in range(30)))
    for one in published:
        stored = await store.flow_version(TENANT, "book", one.version)
        assert stored == one
    (flow,) = await store.flows(TENANT)
    assert sorted({one.version for one in published}) == list(range(1, flow.latest_version + 1))
