"""The in-process bus."""

import asyncio

import pytest

from storage.memory import BusHub, MemoryBus


@pytest.fixture
def heard() -> dict[str, list[bytes]]:
    return {"a": [], "b": [], "c": []}


async def test_the_others_hear_what_one_publishes(heard: dict[str, list[bytes]]) -> None:
    hub = BusHub()
    buses = {name: MemoryBus(hub) for name in heard}
    for name, bus in buses.items():
        await bus.open()
        await bus.subscribe("x", heard[name].append)
    buses["a"].publish("x", b"1")
    buses["b"].publish("x", b"2")
    buses["a"].publish("y", b"3")
    assert heard == {"a": [], "b": [], "c": []}
    await asyncio.sleep(0)
    assert heard == {"a": [b"2"], "b": [b"1"], "c": [b"1", b"2"]}


async def test_who_has_unsubscribed_or_closed_hears_nothing(heard: dict[str, list[bytes]]) -> None:
    hub = BusHub()
    a, b, c = MemoryBus(hub), MemoryBus(hub), MemoryBus(hub)
    await b.subscribe("x", heard["b"].append)
    await c.subscribe("x", heard["c"].append)
    a.publish("x", b"1")
    await b.unsubscribe("x")
    await b.unsubscribe("x")
    await c.close()
    await c.close()
    await asyncio.sleep(0)
    assert heard == {"a": [], "b": [], "c": []}
    assert hub.receivers == {}


async def test_a_closed_bus_publishes_nothing(heard: dict[str, list[bytes]]) -> None:
    hub = BusHub()
    a, b = MemoryBus(hub), MemoryBus(hub)
    await b.subscribe("x", heard["b"].append)
    await a.close()
    a.publish("x", b"1")
    await asyncio.sleep(0)
    assert heard["b"] == []
    await a.open()
    a.publish("x", b"2")
    await asyncio.sleep(0)
    assert heard["b"] == [b"2"]


async def test_a_channel_has_one_receiver_an_instance(heard: dict[str, list[bytes]]) -> None:
    hub = BusHub()
    a, b = MemoryBus(hub), MemoryBus(hub)
    await b.subscribe("x", heard["a"].append)
    await b.subscribe("x", heard["b"].append)
    a.publish("x", b"1")
    await asyncio.sleep(0)
    assert heard == {"a": [], "b": [b"1"], "c": []}


async def test_without_a_hub_an_instance_is_alone(heard: dict[str, list[bytes]]) -> None:
    a, b = MemoryBus(), MemoryBus()
    await a.subscribe("x", heard["a"].append)
    await b.subscribe("x", heard["b"].append)
    a.publish("x", b"1")
    await asyncio.sleep(0)
    assert heard == {"a": [], "b": [], "c": []}


def test_publishing_to_nobody_needs_no_loop() -> None:
    MemoryBus().publish("x", b"1")
