"""Keys as instances know them: what they remember, when they forget it, and whom they end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from protocol.errors import CloseCode, ErrorCode, Refused
from server.auth.keys import CACHE_MS, CHANNEL, UNKNOWN_MS, Keys, closing_of, hash_of, make_text
from server.auth.principal import Principal
from storage.base import StoreUnavailable
from storage.memory import BusHub, MemoryBus, MemoryStore
from storage.models import ApiKey

NOW = 1_800_000_000_000
SHOP = "https://shop.example"


class CountingStore(MemoryStore):
    """Counts what it is asked for, and may be away. Its time stands still until a test moves it."""

    def __init__(self) -> None:
        self.ms = NOW
        super().__init__(lambda: self.ms)
        self.asked = 0
        self.away = False

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("away")

    async def api_key_by_hash(self, sha256: str) -> ApiKey | None:
        self._ask()
        return await super().api_key_by_hash(sha256)

    async def api_keys_by_id(self, ids: Sequence[tuple[str, str]]) -> dict[tuple[str, str], ApiKey]:
        self._ask()
        return await super().api_keys_by_id(ids)

    async def has_origin(self, patterns: Sequence[str], now: int, *, tenant_id: str | None = None) -> bool:
        self._ask()
        return await super().has_origin(patterns, now, tenant_id=tenant_id)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Let others work until it is so."""
    async with asyncio.timeout(5):
        while not await condition():
            await asyncio.sleep(0)


class FakeHolder:
    """A connection, and why it was ended."""

    def __init__(self, key_id: str | None = "k1", origin: str | None = SHOP) -> None:
        self.principal = Principal("u", "t1", "visitor", key_id=key_id, origin=origin)
        self.ended: list[Refused] = []

    def key_ended(self, why: Refused) -> None:
        self.ended.append(why)


async def a_key(store: MemoryStore, key_id: str = "k1") -> tuple[ApiKey, str]:
    text = make_text("pk_")
    key = ApiKey(key_id, "t1", "pk_", hash_of(text), "Shop", origins=(SHOP,), created_at=NOW)
    assert await store.create_api_key(key)
    return key, text


async def change(store: MemoryStore, keys: Keys, key: ApiKey, **fields: object) -> ApiKey:
    after = replace(key, **fields)  # type: ignore[arg-type]
    assert await store.change_api_key(key, after)
    keys.changed(after)
    return after


def test_a_key_is_256_random_bits() -> None:
    texts = {make_text("pk_") for _ in range(100)}
    assert len(texts) == 100
    assert {len(text) for text in texts} == {46}


async def test_a_key_is_looked_up_once_a_minute() -> None:
    store = CountingStore()
    keys = Keys(store)
    key, text = await a_key(store)
    for _ in range(5):
        assert await keys.by_text(text) == key
        assert await keys.by_id("t1", "k1") == key
    assert store.asked == 1
    store.ms += CACHE_MS
    assert await keys.by_text(text) == key
    assert store.asked == 2


async def test_what_cannot_be_a_key_is_not_looked_up() -> None:
    store = CountingStore()
    keys = Keys(store)
    for text in ("", "pk_", "pk_short", "pk_" + "A" * 44, "xx_" + "A" * 43, "pk_" + "A" * 42 + "é", "\ud800"):
        assert await keys.by_text(text) is None
    assert store.asked == 0


async def test_a_key_of_another_tenant_is_none() -> None:
    store = CountingStore()
    keys = Keys(store)
    await a_key(store)
    assert await keys.by_id("t2", "k1") is None


async def test_a_change_counts_at_once_where_it_is_made() -> None:
    store = CountingStore()
    keys = Keys(store)
    key, text = await a_key(store)
    await keys.by_text(text)
    fresh = make_text("pk_")
    rotated = await change(store, keys, key, sha256=hash_of(fresh))
    assert await keys.by_text(text) is None
    assert await keys.by_text(fresh) == rotated
    await change(store, keys, rotated, is_active=False)
    assert await keys.by_text(fresh) is None
    assert await keys.by_id("t1", "k1") is None


async def test_a_change_ends_who_rests_on_the_key_and_nobody_else() -> None:
    store = CountingStore()
    keys = Keys(store)
    key, _ = await a_key(store)
    page, program, other, nobody = (
        FakeHolder(), FakeHolder(origin=None), FakeHolder("k2"), FakeHolder(None),
    )  # fmt: skip
    gone = FakeHolder()
    for holder in (page, program, other, nobody, gone):
        keys.hold(holder)
    keys.release(gone)
    moved = await change(store, keys, key, origins=("https://new.example",))
    assert [why.code for why in page.ended] == [ErrorCode.ORIGIN_NOT_ALLOWED]
    assert closing_of(page.ended[0])[0] == CloseCode.ORIGIN_NOT_ALLOWED
    assert not program.ended
    keys.release(page)
    await change(store, keys, moved, is_active=False)
    assert [why.code for why in program.ended] == [ErrorCode.UNAUTHORIZED]
    assert closing_of(program.ended[0])[0] == CloseCode.UNAUTHORIZED
    assert not other.ended + nobody.ended + gone.ended
    assert len(page.ended) == 1


async def test_other_instances_hear_of_a_change() -> None:
    store, hub = CountingStore(), BusHub()
    here, there = Keys(store, MemoryBus(hub)), Keys(store, MemoryBus(hub), look_s=3600)
    await here.start()
    await there.start()
    key, text = await a_key(store)
    assert await there.by_text(text) == key
    assert await there.name_origin(SHOP)
    holder = FakeHolder()
    there.hold(holder)
    await change(store, here, key, is_active=False)

    async def ended() -> bool:
        return bool(holder.ended)

    await until(ended)
    assert await there.by_text(text) is None
    assert not await there.name_origin(SHOP)
    await here.stop()
    await there.stop()


async def test_a_change_that_nobody_tells_is_found_by_looking() -> None:
    store = CountingStore()
    keys = Keys(store)
    key, text = await a_key(store)
    await keys.by_text(text)
    holders = [FakeHolder(), FakeHolder()]
    for holder in holders:
        keys.hold(holder)
    await keys.look()
    assert not any(holder.ended for holder in holders)
    asked = store.asked
    await store.change_api_key(key, replace(key, is_active=False))
    await keys.look()
    assert store.asked == asked + 1
    assert all(holder.ended for holder in holders)
    assert await keys.by_text(text) is None


async def test_what_was_remembered_while_the_bus_was_away_is_looked_up_again() -> None:
    store = CountingStore()
    keys = Keys(store, look_s=3600)
    await keys.start()
    key, text = await a_key(store)
    assert await keys.by_text(text) == key
    assert await keys.name_origin(SHOP)
    holder = FakeHolder()
    keys.hold(holder)
    await store.change_api_key(key, replace(key, is_active=False))
    assert await keys.by_text(text) == key
    keys.restored()
    assert await keys.by_text(text) is None
    assert not await keys.name_origin(SHOP)

    async def ended() -> bool:
        return bool(holder.ended)

    await until(ended)
    await keys.stop()


async def test_a_store_that_is_away_ends_nobody() -> None:
    store = CountingStore()
    keys = Keys(store)
    key, text = await a_key(store)
    holder = FakeHolder()
    keys.hold(holder)
    store.away = True
    with pytest.raises(StoreUnavailable):
        await keys.look()
    with pytest.raises(StoreUnavailable):
        await keys.by_text(text)
    assert not holder.ended
    store.away = False
    assert await keys.by_text(text) == key


async def test_a_look_that_fails_unexpectedly_is_not_the_last_one() -> None:
    """Else no revocation would reach a live connection from then on."""

    class BrokenStore(CountingStore):
        broken = True

        async def api_keys_by_id(self, ids: Sequence[tuple[str, str]]) -> dict[tuple[str, str], ApiKey]:
            found = await super().api_keys_by_id(ids)
            if self.broken:
                raise ValueError("a document that cannot be read")
            return found

    store = BrokenStore()
    keys = Keys(store, look_s=0.001)
    key, _ = await a_key(store)
    await store.change_api_key(key, replace(key, is_active=False))
    holder = FakeHolder()
    keys.hold(holder)
    await keys.start()

    async def looked() -> bool:
        return store.asked > 0

    async def ended() -> bool:
        return bool(holder.ended)

    await until(looked)
    store.broken = False
    await until(ended)
    await keys.stop()


async def test_what_is_read_while_a_key_changes_is_not_remembered() -> None:
    """The answer of before the change must not outlive it."""
    reading, gate = asyncio.Event(), asyncio.Event()

    class SlowStore(CountingStore):
        async def api_key_by_hash(self, sha256: str) -> ApiKey | None:
            found = await super().api_key_by_hash(sha256)
            reading.set()
            await gate.wait()
            return found

        async def has_origin(
            self, patterns: Sequence[str], now: int, *, tenant_id: str | None = None
        ) -> bool:
            found = await super().has_origin(patterns, now, tenant_id=tenant_id)
            await gate.wait()
            return found

    store = SlowStore()
    keys = Keys(store)
    key, text = await a_key(store)
    asked = asyncio.gather(keys.by_text(text), keys.name_origin(SHOP))
    await reading.wait()
    await change(store, keys, key, is_active=False)
    gate.set()
    await asked
    assert await keys.by_text(text) is None
    assert not await keys.name_origin(SHOP)


async def test_nonsense_on_the_bus_is_passed_over() -> None:
    store, hub = CountingStore(), BusHub()
    keys, other = Keys(store, MemoryBus(hub)), MemoryBus(hub)
    await keys.start()
    key, text = await a_key(store)
    await keys.by_text(text)
    for payload in (b"", b"\xff", b"[]", b"{}", b'{"v":1,"tenant":"t1"}'):
        other.publish(CHANNEL, payload)
    other.publish(CHANNEL, b'{"v":1,"tenant":"t1","key":"k1"}')
    asked = store.asked

    async def looks_again() -> bool:
        await keys.by_text(text)
        return store.asked > asked

    await until(looks_again)
    assert await keys.by_text(text) == key
    await keys.stop()


async def test_an_origin_is_asked_for_seldom_also_one_that_nobody_names() -> None:
    store = CountingStore()
    keys = Keys(store)
    for _ in range(5):
        assert not await keys.name_origin(SHOP)
    assert store.asked == 1
    key, _ = await a_key(store)
    store.ms += UNKNOWN_MS
    for _ in range(5):
        assert await keys.name_origin(SHOP)
        assert await keys.name_origin(SHOP, "t1")
        assert not await keys.name_origin(SHOP, "t2")
    assert store.asked == 4
    await change(store, keys, key, origins=("https://*.shop.example",))
    assert not await keys.name_origin(SHOP)
    assert await keys.name_origin("https://a.shop.example")
    for nonsense in ("null", "", "https://*.shop.example", "shop.example", "https://a.shop.example/"):
        assert not await keys.name_origin(nonsense)


async def test_when_a_key_was_used_last_is_noted_at_the_end_too() -> None:
    store = CountingStore()
    keys = Keys(store)
    await keys.start()
    _, text = await a_key(store)
    store.ms += 5
    await keys.by_text(text)
    await keys.stop()
    assert (await store.api_keys("t1"))[0].last_used_at == NOW + 5
    await keys.stop()
