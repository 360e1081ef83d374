"""Keys of tenants: found by their hash, changed only as they were read, seen by their tenant alone."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from storage.base import StorageError, Store
from storage.models import ApiKey, KeyPlace
from tests.support.records import NOW, TENANT, api_key

SHOP = "https://shop.example"
OTHER_TENANT = "t2"


async def test_a_key_is_kept_as_it_was_given(store: Store) -> None:
    key = ApiKey(
        "k1", TENANT, "sk_", "h1", "Back office", "what for", "u7", "service", ("users:act", "flows:read"),
        "premium", 7, ("https://a.example", "https://*.b.example"), NOW + 5, False, "admin", NOW, NOW + 1,
    )  # fmt: skip
    assert await store.create_api_key(key)
    assert await store.api_key_by_hash("h1") == key
    assert await store.api_keys_by_id([(TENANT, "k1"), (TENANT, "k2")]) == {(TENANT, "k1"): key}
    assert await store.api_keys(TENANT) == [key]
    assert await store.api_key_by_hash("h2") is None


async def test_an_id_and_a_hash_are_taken_once(store: Store) -> None:
    first = api_key()
    assert await store.create_api_key(first)
    assert not await store.create_api_key(api_key(sha256="another"))
    assert not await store.create_api_key(api_key("k2", OTHER_TENANT, sha256=first.sha256))
    assert await store.api_keys(TENANT) == [first]
    assert await store.api_keys(OTHER_TENANT) == []
    assert await store.create_api_key(api_key(tenant_id=OTHER_TENANT))


async def test_of_those_who_make_the_same_key_at_once_one_does(store: Store) -> None:
    made = await asyncio.gather(*(store.create_api_key(api_key(name=f"{n}")) for n in range(10)))
    assert sum(made) == 1


async def test_a_tenant_sees_its_own_keys(store: Store) -> None:
    await store.create_api_key(api_key("k1"))
    await store.create_api_key(api_key("k2", OTHER_TENANT))
    assert [key.key_id for key in await store.api_keys(TENANT)] == ["k1"]
    assert await store.api_keys_by_id([(OTHER_TENANT, "k1"), (TENANT, "k2")]) == {}
    assert not await store.change_api_key(api_key("k2"), api_key("k2", name="mine"))


async def test_keys_come_in_pages_the_newest_first(store: Store) -> None:
    for n in range(7):
        await store.create_api_key(api_key(f"k{n}", created_at=NOW + n // 2))
    found: list[str] = []
    after: KeyPlace | None = None
    while page := await store.api_keys(TENANT, after=after, limit=3):
        found += [key.key_id for key in page]
        after = KeyPlace(page[-1].created_at, page[-1].key_id)
    assert found == ["k6", "k5", "k4", "k3", "k2", "k1", "k0"]


async def test_a_change_replaces_what_may_change(store: Store) -> None:
    before = api_key()
    await store.create_api_key(before)
    await store.touch_api_keys({(TENANT, "k1"): NOW + 9})
    after = replace(
        before, sha256="new", name="n", description="d", user_id="u", role="operator", scopes=("flows:read",),
        tier="free", rate_limit_per_minute=3, origins=("https://n.example",), expires_at=NOW, is_active=False,
    )  # fmt: skip
    wrong = replace(after, prefix="sk_", created_by="me", created_at=1, last_used_at=2)
    assert await store.change_api_key(before, wrong)
    assert await store.api_key_by_hash("new") == replace(after, last_used_at=NOW + 9)
    assert await store.api_key_by_hash(before.sha256) is None


@pytest.mark.parametrize("stale", [{"sha256": "old"}, {"is_active": False}, {"origins": ()}])
async def test_a_key_that_has_changed_meanwhile_is_not_changed(store: Store, stale: dict[str, Any]) -> None:
    key = api_key()
    await store.create_api_key(key)
    assert not await store.change_api_key(api_key(**stale), api_key(name="new"))
    assert not await store.change_api_key(api_key("missing"), api_key("missing"))
    assert await store.api_keys(TENANT) == [key]


async def test_of_two_who_change_a_key_at_once_one_does(store: Store) -> None:
    key = api_key()
    await store.create_api_key(key)
    changed = await asyncio.gather(
        *(store.change_api_key(key, replace(key, origins=(f"https://{n}.example",))) for n in range(5))
    )
    assert sum(changed) == 1


async def test_a_key_cannot_take_the_hash_of_another(store: Store) -> None:
    first, second = api_key("k1"), api_key("k2")
    await store.create_api_key(first)
    await store.create_api_key(second)
    with pytest.raises(StorageError):
        await store.change_api_key(second, replace(second, sha256=first.sha256))
    assert await store.api_key_by_hash(first.sha256) == first
    assert await store.api_key_by_hash(second.sha256) == second


async def test_the_time_of_use_only_goes_on(store: Store) -> None:
    await store.create_api_key(api_key())
    for at in (NOW + 5, NOW + 3):
        await store.touch_api_keys({(TENANT, "k1"): at, (TENANT, "missing"): at})
    assert (await store.api_keys(TENANT))[0].last_used_at == NOW + 5


async def test_an_origin_is_known_where_a_key_that_works_has_it(store: Store) -> None:
    await store.create_api_key(api_key("good", origins=(SHOP, "https://*.b.example")))
    await store.create_api_key(api_key("secret", prefix="sk_", origins=("https://secret.example",)))
    await store.create_api_key(api_key("ended", expires_at=NOW, origins=("https://ended.example",)))
    revoked = api_key("revoked", origins=("https://revoked.example",))
    await store.create_api_key(revoked)
    await store.change_api_key(revoked, replace(revoked, is_active=False))
    assert await store.has_origin([SHOP], NOW)
    assert await store.has_origin(["https://nothing.example", "https://*.b.example"], NOW, tenant_id=TENANT)
    assert not await store.has_origin([SHOP], NOW, tenant_id=OTHER_TENANT)
    for origin in ("https://shop.example:444", "https://secret.example", "https://revoked.example"):
        assert not await store.has_origin([origin], NOW)
    assert not await store.has_origin(["https://ended.example"], NOW)
    assert await store.has_origin(["https://ended.example"], NOW - 1)


async def test_an_origin_goes_with_its_key(store: Store) -> None:
    key = api_key()
    await store.create_api_key(key)
    await store.change_api_key(key, replace(key, origins=("https://new.example",)))
    assert not await store.has_origin([SHOP], NOW)
    assert await store.has_origin(["https://new.example"], NOW)
