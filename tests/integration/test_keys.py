"""API keys and what rests on them: visitors of real sites, their pages, their tokens' end."""

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from server.auth.tokens import KEY_CLAIM, Trust, issue_token
from server.auth.visitors import KEY_TTL_S, RENEWABLE_S
from storage.memory import MemoryStore
from tests.support.cluster import cluster
from tests.support.keys import SHOP, make_key, manager, visit, visitor
from tests.support.rest import Answer, ask, call
from tests.support.server import SECRET, TENANT, RunningServer, running_server, token

OTHER = "https://other.example"


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


def token_of(key_id: str, age_s: float = 0, **changes: Any) -> str:
    """Return a visitor's token of a key, as it was made ``age_s`` ago."""
    fields: dict[str, Any] = {
        "user_id": "visitor-1", "tenant_id": TENANT, "role": "visitor", "ttl_s": KEY_TTL_S, "key_id": key_id,
        **changes,
    }  # fmt: skip
    secret = fields.pop("secret", SECRET)
    return issue_token(Trust(secret.encode()), now_s=time.time() - age_s, **fields)


# --- keys -----------------------------------------------------------------------------------------


async def test_a_key_shows_its_text_once(server: RunningServer) -> None:
    answer = await call(
        server, "POST", "/keys",
        {"publishable": True, "origins": ["HTTPS://Shop.example:443"], "description": "d", "tier": "free",
         "rate_limit_per_minute": 7, "expires_at": "2100-01-01T00:00:00Z"}, who=manager(),
    )  # fmt: skip
    made = answer.json
    assert answer.status == 201
    text = made.pop("key")
    assert text.startswith("pk_")
    assert len(text) >= 46
    assert answer.headers["location"] == f"/v1/keys/{made['key_id']}"
    assert (made["origins"], made["name"], made["role"]) == ([SHOP], SHOP, "visitor")
    assert (made["created_by"], made["is_active"], made["last_used_at"]) == ("boss", True, None)
    shown = await call(server, "GET", f"/keys/{made['key_id']}", who=manager())
    listed = await call(server, "GET", "/keys", who=manager())
    assert shown.json == made
    assert listed.json == {"keys": [made], "cursor": None}
    for answer in (shown, listed):
        assert text.encode() not in answer.body
        assert b"sha256" not in answer.body


async def test_keys_are_for_who_may_manage_them_and_of_one_tenant(server: RunningServer) -> None:
    made = await make_key(server)
    one = f"/keys/{made['key_id']}"
    asked: list[tuple[str, str, dict[str, Any] | None]] = [
        ("GET", "/keys", None),
        ("POST", "/keys", {"publishable": True, "origins": [SHOP]}),
        ("GET", one, None),
        ("PATCH", one, {"add_origins": [OTHER]}),
        ("DELETE", one, None),
        ("POST", f"{one}/rotate", {}),
    ]
    for method, path, body in asked:
        assert code(await call(server, method, path, body)) == (403, "permission_denied")
        assert code(await call(server, method, path, body, who=token(scopes=("conversations:write",)))) == (
            403,
            "permission_denied",
        )
    stranger = manager(tenant_id="t2")
    for method, path, body in asked[2:]:
        foreign = await call(server, method, path, body, who=stranger)
        missing = await call(server, method, path.replace(made["key_id"], "key_none"), body, who=stranger)
        assert code(foreign) == code(missing) == (404, "not_found")
        assert foreign.json["error"] == missing.json["error"]
    assert (await call(server, "GET", "/keys", who=stranger)).json["keys"] == []
    assert (await visitor(server, made["key"]))["token"]


async def test_keys_are_listed_in_pages(server: RunningServer) -> None:
    made = [(await make_key(server, name=f"k{n}"))["key_id"] for n in range(5)]
    found: list[str] = []
    cursor = ""
    while True:
        page = (await call(server, "GET", f"/keys?limit=2{cursor}", who=manager())).json
        found += [key["key_id"] for key in page["keys"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert sorted(found) == sorted(made)
    assert len(found) == 5


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"origins": []}, "origins"),
    ({"origins": ["shop.example"]}, "origins"),
    ({"origins": ["https://shop.example/path"]}, "origins"),
    ({"origins": ["*"]}, "origins"),
    ({"origins": ["https://a.*.example"]}, "origins"),
    ({"origins": ["null"]}, "origins"),
    ({"origins": ["https://u:p@shop.example"]}, "origins"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ({"expires_at": "tomorrow"}, "expires_at"),
    ({"scopes": ["admin"]}, "scopes"),
    ({"role": "admin"}, "scopes"),
    ({"tier": "gold"}, "tier"),
    ({"name": "a line\nand another"}, "name"),
    ({"name": "\x1b[31mred"}, "name"),
    ({"rate_limit_per_minute": 0}, "rate_limit_per_minute"),
    ({"publishable": False, "rate_limit_per_minute": 5}, "rate_limit_per_minute"),
    ({"publishable": False, "scopes": ["nothing:at_all"]}, "scopes"),
    ({"sha256": "x"}, "sha256"),
]


async def test_a_key_that_cannot_be_is_refused_by_field(server: RunningServer) -> None:
    for fields, field in WRONG:
        body = {"publishable": True, "origins": [SHOP], **fields}
        answer = await call(server, "POST", "/keys", body, who=manager())
        assert code(answer) == (400, "bad_request"), fields
        assert answer.json["error"]["field"].split(".")[0] == field
    assert (await call(server, "GET", "/keys", who=manager())).json["keys"] == []


# --- secret keys ----------------------------------------------------------------------------------


async def test_a_secret_key_is_a_credential_everywhere(server: RunningServer) -> None:
    made = await make_key(
        server, publishable=False, origins=[], user_id="crm", scopes=["conversations:inspect"],
        who=token("root", role="admin"),
    )  # fmt: skip
    text = made["key"]
    assert text.startswith("sk_")
    client = await server.connect(text)
    assert client.welcome["principal"]["user_id"] == "crm"
    assert client.welcome["principal"]["role"] == "service"
    assert "conversations:inspect" in client.welcome["principal"]["scopes"]
    assert client.welcome["token_expires_in"] is None
    assert (await call(server, "GET", "/conversations", who=text)).status == 200
    assert (await ask(server, "GET", "/v1/conversations", X_API_Key=text)).status == 200
    assert code(await ask(server, "GET", "/v1/conversations", X_API_Key=text + "x")) == (401, "unauthorized")
    revoked = await call(server, "DELETE", f"/keys/{made['key_id']}", who=manager())
    assert revoked.status == 204
    assert (await client.closed())[0] == 4500
    assert code(await call(server, "GET", "/conversations", who=text)) == (401, "unauthorized")


async def test_nobody_gives_a_key_more_than_they_have(server: RunningServer) -> None:
    for fields in ({"scopes": ["tools:invoke"], "role": "user"}, {"role": "admin"}, {"scopes": ["admin"]}):
        body = {"publishable": False, **fields}
        assert code(await call(server, "POST", "/keys", body, who=manager())) == (403, "permission_denied")
    own = {"publishable": False, "role": "user", "scopes": ["keys:manage"]}
    assert (await call(server, "POST", "/keys", own, who=manager())).status == 201


async def test_nobody_gets_a_text_of_a_key_that_can_more_than_they(server: RunningServer) -> None:
    """Managing keys is no way to be an admin, by the new text of one's key, or another user, by a name."""
    root = token("root", role="admin")
    for fields in ({"role": "admin"}, {"role": "user", "user_id": "alice"}):
        made = await make_key(server, publishable=False, origins=[], who=root, **fields)
        path = f"/keys/{made['key_id']}/rotate"
        assert code(await call(server, "POST", path, {}, who=manager())) == (403, "permission_denied")
        assert (await call(server, "GET", "/conversations", who=made["key"])).status == 200
        rotated = await call(server, "POST", path, {}, who=root)
        assert (await call(server, "GET", "/conversations", who=rotated.json["key"])).status == 200
    alice = {"publishable": False, "role": "user", "user_id": "alice"}
    refused = await call(server, "POST", "/keys", alice, who=manager())
    assert code(refused) == (403, "permission_denied")
    assert refused.json["error"]["details"] == {"scopes": ["users:act"]}
    own = {**alice, "user_id": "boss"}
    assert (await call(server, "POST", "/keys", own, who=manager())).status == 201
    acting = token("boss", scopes=("keys:manage", "users:act"))
    assert (await call(server, "POST", "/keys", alice, who=acting)).status == 201


@pytest.mark.parametrize("heard", [True, False])
async def test_who_came_in_with_a_former_text_is_sent_away(tmp_path: Path, heard: bool) -> None:
    """A secret key is rotated because its text has got out: whoever has that is to be out as well."""
    async with cluster(tmp_path) as (one, two):
        made = await make_key(one, publishable=False, origins=[], role="user")
        live = await two.connect(made["key"])
        if not heard:
            two.bus.unplug()
        rotated = await call(one, "POST", f"/keys/{made['key_id']}/rotate", {}, who=manager())
        assert (await live.closed(timeout=10))[0] == 4500
        assert (await two.connect(rotated.json["key"])).welcome["type"] == "welcome"


async def test_a_publishable_key_is_no_token(server: RunningServer) -> None:
    made = await make_key(server)
    client = await server.open(origin=SHOP)
    answer = await client.ask("hello", token=made["key"])
    assert answer["error"]["code"] == "unauthorized"
    assert "/v1/visitors" in answer["error"]["suggestion"]
    assert (await client.closed())[0] == 4500
    assert code(await ask(server, "GET", "/v1/conversations", X_API_Key=made["key"])) == (401, "unauthorized")


# --- visitors -------------------------------------------------------------------------------------


async def test_a_page_gets_a_visitor_who_can_talk(server: RunningServer) -> None:
    made = await make_key(server, tier="free")
    answer = await visit(server, {"key": made["key"]})
    assert answer.status == 201
    assert answer.json.keys() == {"token", "user_id", "expires_in"}
    assert answer.json["expires_in"] == KEY_TTL_S
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert answer.headers["vary"] == "origin"
    assert (answer.headers["ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("10", "9")
    client = await server.open(origin=SHOP)
    welcome = await client.ask("hello", token=answer.json["token"])
    assert welcome["principal"] == {
        "user_id": answer.json["user_id"], "tenant_id": TENANT, "role": "visitor", "scopes": [],
        "tier": "free",
    }  # fmt: skip
    assert (await client.say("c1", "hi"))["type"] == "ack"
    own = await call(server, "GET", "/conversations/c1/state", who=answer.json["token"], Origin=SHOP)
    assert own.status == 200
    shown = (await call(server, "GET", f"/keys/{made['key_id']}", who=manager())).json
    assert shown["last_used_at"] is None  # written in batches
    await server.application.keys.stop()
    shown = (await call(server, "GET", f"/keys/{made['key_id']}", who=manager())).json
    assert shown["last_used_at"] is not None


async def test_the_key_may_come_as_a_header(server: RunningServer) -> None:
    made = await make_key(server)
    assert (await visit(server, {}, X_API_Key=made["key"])).status == 201
    assert (await visit(server, {"key": made["key"]}, X_API_Key=made["key"])).status == 201
    assert code(await visit(server, {"key": made["key"]}, X_API_Key="pk_other")) == (400, "bad_request")


@pytest.mark.parametrize(
    "key", [None, "", "pk_", "pk_" + "A" * 43, "sk_" + "A" * 43, "x" * 9000, "pk_\u00e9", "\x00"]
)
async def test_without_a_good_key_there_is_no_visitor(server: RunningServer, key: str | None) -> None:
    await make_key(server)
    answer = await visit(server, {"key": key})
    assert code(answer) == (401, "unauthorized")
    assert "parley keys create" in answer.json["error"]["suggestion"]
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_secret_key_makes_no_visitors(server: RunningServer) -> None:
    await make_key(server)
    made = await make_key(server, publishable=False, origins=[SHOP], role="user")
    assert code(await visit(server, {"key": made["key"]})) == (401, "unauthorized")


ORIGINS = [
    ("https://shop.example", True),
    ("https://SHOP.example", True),
    ("https://shop.example:443", True),
    ("https://a.wild.example", True),
    ("http://localhost:3000", True),
    ("http://shop.example", False),
    ("https://shop.example:444", False),
    ("https://shop.example.evil.example", False),
    ("https://evilshop.example", False),
    ("https://www.shop.example", False),
    ("https://wild.example", False),
    ("https://a.b.wild.example", False),
    ("http://a.wild.example", False),
    ("http://localhost:3001", False),
    ("http://localhost", False),
    ("https://*.wild.example", False),
    ("null", False),
    ("", False),
    ("https://shop.example/", False),
    ("https://shop.example, https://evil.example", False),
]


async def test_origins_are_matched_exactly(server: RunningServer) -> None:
    """For visitors, preflights, REST and sockets alike."""
    names = [SHOP, "https://*.wild.example", "http://localhost:3000"]
    made = await make_key(server, origins=names)
    good = (await visitor(server, made["key"]))["token"]
    for origin, allowed in ORIGINS:
        answers = [
            await visit(server, {"key": made["key"]}, origin=origin),
            await ask(server, "OPTIONS", "/v1/visitors", Origin=origin),
            await call(server, "GET", "/conversations", who=good, Origin=origin),
        ]
        client = await server.open(additional_headers={"Origin": origin})
        if allowed:
            assert [answer.status for answer in answers] == [201, 204, 200], origin
            assert all(answer.headers["access-control-allow-origin"] == origin for answer in answers)
            assert (await client.ask("hello", token=good))["type"] == "welcome", origin
            continue
        for answer in answers:
            assert code(answer) == (403, "origin_not_allowed"), origin
            assert "access-control-allow-origin" not in answer.headers
            assert "parley origins add" in answer.json["error"]["suggestion"]
        ended, reason = await client.closed()
        assert (ended, "parley origins add" in reason) == (4507, True), origin


async def test_a_page_needs_an_origin_for_a_visitor_but_other_programs_none_for_a_socket(
    server: RunningServer,
) -> None:
    made = await make_key(server)
    assert code(await visit(server, {"key": made["key"]}, origin=None)) == (403, "origin_not_allowed")
    await server.connect((await visitor(server, made["key"]))["token"])


async def test_a_page_of_another_key_may_not_use_this_one(server: RunningServer) -> None:
    """It may ask, because some key names it; what it brings decides, here and at ``hello``."""
    shop, other = await make_key(server), await make_key(server, origins=[OTHER], who=manager(tenant_id="t2"))
    refused = await visit(server, {"key": shop["key"]}, origin=OTHER)
    assert code(refused) == (403, "origin_not_allowed")
    assert refused.headers["access-control-allow-origin"] == OTHER  # so that the page can say how to mend it
    add = f"parley origins add {OTHER} --key {shop['key_id']}"
    assert add in refused.json["error"]["suggestion"]
    mine = (await visitor(server, shop["key"]))["token"]
    assert code(await call(server, "GET", "/conversations", who=mine, Origin=OTHER)) == (
        403, "origin_not_allowed",
    )  # fmt: skip
    for credential in (mine, token("u1")):  # a visitor of the shop, a user of the shop's tenant
        client = await server.open(origin=OTHER)
        assert (await client.ask("hello", token=credential))["error"]["code"] == "origin_not_allowed"
        assert (await client.closed())[0] == 4507
    client = await server.open(origin=SHOP)
    assert (await client.ask("hello", token=mine))["type"] == "welcome"
    theirs = (await visitor(server, other["key"], origin=OTHER))["token"]
    assert (await client.ask("auth", token=theirs))["error"]["code"] == "origin_not_allowed"


async def test_a_page_with_a_key_brings_its_tenants_users_too(server: RunningServer) -> None:
    await make_key(server)
    client = await server.open(origin=SHOP)
    assert (await client.ask("hello", token=token("u1")))["type"] == "welcome"
    assert (await call(server, "GET", "/conversations", Origin=SHOP)).status == 200


async def test_a_page_of_the_settings_is_no_page_of_every_key(tmp_path: Path) -> None:
    async with running_server(tmp_path, origins=(OTHER,)) as server:
        made = await make_key(server)
        assert code(await visit(server, {"key": made["key"]}, origin=OTHER)) == (403, "origin_not_allowed")
        assert (await call(server, "GET", "/conversations", Origin=OTHER)).status == 200


# --- renewal --------------------------------------------------------------------------------------


@pytest.mark.parametrize("age_s", [0, KEY_TTL_S + 60, RENEWABLE_S])
async def test_a_visitor_is_renewed_for_30_days(server: RunningServer, age_s: int) -> None:
    made = await make_key(server)
    answer = await visit(server, {"key": made["key"], "token": token_of(made["key_id"], age_s)})
    assert (answer.status, answer.json["user_id"]) == (201, "visitor-1")
    client = await server.open(origin=SHOP)
    assert (await client.ask("hello", token=answer.json["token"]))["principal"]["user_id"] == "visitor-1"


async def test_what_is_too_old_or_no_visitors_is_not_renewed(server: RunningServer) -> None:
    made = await make_key(server)
    key_id = made["key_id"]
    old = await visit(server, {"key": made["key"], "token": token_of(key_id, RENEWABLE_S + KEY_TTL_S + 60)})
    assert code(old) == (401, "token_expired")
    for bad in (
        token_of(key_id, secret="another-secret-of-thirty-two-bytes!"),
        token_of(key_id, tenant_id="t2"),
        token_of(key_id, role="user"),
        token_of(key_id, role="admin"),
        token_of(key_id, scopes=("conversations:read",)),
        token("u1"),
        "nonsense",
        token_of(key_id)[:-2] + "AA",
    ):
        assert code(await visit(server, {"key": made["key"], "token": bad})) == (401, "unauthorized")
    expired = await server.open(origin=SHOP)
    answer = await expired.ask("hello", token=token_of(key_id, KEY_TTL_S + 60))
    assert answer["error"]["code"] == "token_expired"
    assert (await expired.closed())[0] == 4002


async def test_a_visitor_outlives_a_key_that_is_replaced(server: RunningServer) -> None:
    first, second = await make_key(server), await make_key(server)
    before = await visitor(server, first["key"])
    await call(server, "DELETE", f"/keys/{first['key_id']}", who=manager())
    after = await visit(server, {"key": second["key"], "token": before["token"]})
    assert after.json["user_id"] == before["user_id"]


async def test_a_token_with_a_key_that_is_none_is_refused(server: RunningServer) -> None:
    for key_id in ("key_none", "", "x" * 1000):
        client = await server.open()
        answer = await client.ask("hello", token=token_of(key_id or "key_"))
        assert answer["error"]["code"] == "unauthorized"
    import jwt

    claims = {"sub": "u", "tenant_id": TENANT, "iss": "parley", "aud": "parley", "exp": time.time() + 60}
    forged = jwt.encode({**claims, KEY_CLAIM: ["key"]}, SECRET, algorithm="HS256")
    client = await server.open()
    assert (await client.ask("hello", token=forged))["error"]["code"] == "unauthorized"


# --- what ends ------------------------------------------------------------------------------------


async def test_a_revoked_key_ends_what_rests_on_it(server: RunningServer) -> None:
    made = await make_key(server)
    mine = (await visitor(server, made["key"]))["token"]
    live, other = await server.open(origin=SHOP), await server.connect(token("u1"))
    await live.ask("hello", token=mine)
    revoked = await call(server, "DELETE", f"/keys/{made['key_id']}", who=manager())
    assert revoked.status == 204
    assert await live.closed() == (4500, "the API key was revoked or has expired")
    again = await server.open(origin=SHOP)
    assert (await again.closed())[0] == 4507  # no other key names the page
    beside = await server.connect()
    assert beside.welcome["type"] == "welcome"
    nowhere = await server.open()
    assert (await nowhere.ask("hello", token=mine))["error"]["code"] == "unauthorized"
    assert code(await call(server, "GET", "/conversations", who=mine)) == (401, "unauthorized")
    assert code(await visit(server, {"key": made["key"]}, origin=None)) == (401, "unauthorized")
    assert (await other.say("c2", "hi"))["type"] == "ack"
    shown = (await call(server, "GET", f"/keys/{made['key_id']}", who=manager())).json
    assert shown["is_active"] is False
    assert (await call(server, "DELETE", f"/keys/{made['key_id']}", who=manager())).status == 204
    assert code(await call(server, "POST", f"/keys/{made['key_id']}/rotate", {}, who=manager())) == (
        409, "wrong_state",
    )  # fmt: skip


@pytest.mark.parametrize("heard", [True, False])
async def test_revocation_reaches_the_sockets_of_other_instances(tmp_path: Path, heard: bool) -> None:
    """Also where the bus has lost the word: then the store is looked at, every few seconds."""
    async with cluster(tmp_path) as (one, two):
        made = await make_key(one)
        mine = (await visitor(two, made["key"]))["token"]
        live = await two.open(origin=SHOP)
        await live.ask("hello", token=mine)
        if not heard:
            two.bus.unplug()
        await call(one, "DELETE", f"/keys/{made['key_id']}", who=manager())
        assert (await live.closed(timeout=10))[0] == 4500
        assert code(await visit(two, {"key": made["key"]}, origin=None)) == (401, "unauthorized")
        assert code(await call(two, "GET", "/conversations", who=mine)) == (401, "unauthorized")


async def test_without_the_store_pages_of_keys_wait_and_those_that_are_in_stay(tmp_path: Path) -> None:
    async with cluster(tmp_path, origins=(OTHER,)) as (one, two):
        made = await make_key(one)
        live = await one.open(origin=SHOP)
        await live.ask("hello", token=(await visitor(one, made["key"]))["token"])
        for instance in (one, two):
            instance.connection.away = True
        assert code(await visit(two, {"key": made["key"]})) == (503, "store_unavailable")
        late = await two.open(origin=SHOP)
        assert (await late.closed())[0] == 4007
        listed = await two.open(origin=OTHER)
        assert (await listed.ask("hello", token=token("u1")))["type"] == "welcome"
        assert (await live.ask("unsubscribe", conversation_id="c1"))["type"] == "ack"
        for instance in (one, two):
            instance.connection.away = False
        assert (await visit(two, {"key": made["key"]})).status == 201


async def test_a_key_that_expires_ends_what_rests_on_it(tmp_path: Path) -> None:
    ahead = 0
    store = MemoryStore(lambda: int(time.time() * 1000) + ahead)
    async with running_server(tmp_path, store=store) as server:
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        made = await make_key(server, expires_at=soon)
        live = await server.open(origin=SHOP)
        await live.ask("hello", token=(await visitor(server, made["key"]))["token"])
        ahead = 3_700_000
        await server.application.keys.look()
        assert (await live.closed())[0] == 4500
        assert code(await visit(server, {"key": made["key"]}, origin=None)) == (401, "unauthorized")


async def test_an_origin_that_is_taken_away_ends_its_sockets(server: RunningServer) -> None:
    made = await make_key(server, origins=[SHOP, OTHER])
    one = f"/keys/{made['key_id']}"
    sockets = {}
    for origin in (SHOP, OTHER):
        sockets[origin] = await server.open(origin=origin)
        await sockets[origin].ask("hello", token=(await visitor(server, made["key"], origin=origin))["token"])
    changed = await call(server, "PATCH", one, {"remove_origins": [OTHER]}, who=manager())
    assert changed.json["origins"] == [SHOP]
    assert (await sockets[OTHER].closed())[0] == 4507
    assert (await sockets[SHOP].say("c1", "hi"))["type"] == "ack"
    assert code(await visit(server, {"key": made["key"]}, origin=OTHER)) == (403, "origin_not_allowed")
    last = await call(server, "PATCH", one, {"remove_origins": [SHOP]}, who=manager())
    assert code(last) == (400, "bad_request")
    back = await call(
        server, "PATCH", one, {"add_origins": [OTHER, "https://other.example:443"]}, who=manager()
    )
    assert back.json["origins"] == [SHOP, OTHER]
    assert (await visit(server, {"key": made["key"]}, origin=OTHER)).status == 201


async def test_a_rotated_key_has_a_new_text_and_keeps_its_visitors(server: RunningServer) -> None:
    made = await make_key(server)
    live = await server.open(origin=SHOP)
    await live.ask("hello", token=(await visitor(server, made["key"]))["token"])
    rotated = await call(server, "POST", f"/keys/{made['key_id']}/rotate", {}, who=manager())
    assert rotated.json["key_id"] == made["key_id"]
    assert rotated.json["key"] != made["key"]
    assert code(await visit(server, {"key": made["key"]})) == (401, "unauthorized")
    assert (await visit(server, {"key": rotated.json["key"]})).status == 201
    assert (await live.say("c1", "hi"))["type"] == "ack"


async def test_a_stream_ends_with_its_key(server: RunningServer) -> None:
    made = await make_key(server)
    mine = (await visitor(server, made["key"]))["token"]
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(
        f"GET /v1/conversations/c1/events HTTP/1.1\r\nHost: x\r\nOrigin: {SHOP}\r\n"
        f"Authorization: Bearer {mine}\r\nConnection: close\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    await call(server, "DELETE", f"/keys/{made['key_id']}", who=manager())
    async with asyncio.timeout(10):
        told = await reader.read()
    assert b"event: disconnect" in told
    assert b'"code":4500' in told
    assert b'"reconnect":false' in told
    writer.close()


# --- limits ---------------------------------------------------------------------------------------


async def test_a_key_makes_no_more_visitors_than_its_rate(server: RunningServer) -> None:
    """However many ask at once, from however many sockets, new visitors or old ones."""
    made = await make_key(server, rate_limit_per_minute=5)
    old = token_of(made["key_id"])
    bodies = [{"key": made["key"]}, {"key": made["key"], "token": old}] * 10
    answers = await asyncio.gather(*(visit(server, body) for body in bodies))
    assert sorted(answer.status for answer in answers) == [201] * 5 + [429] * 15
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.json["error"]["code"] == "rate_limited"
    assert refused.json["error"]["retry_after_ms"] > 0
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["access-control-allow-origin"] == SHOP
    beside = await make_key(server)
    assert (await visit(server, {"key": beside["key"]})).status == 201


async def test_an_address_may_not_try_keys_out(tmp_path: Path) -> None:
    async with running_server(tmp_path, visitors_per_address=4) as server:
        made = await make_key(server)
        guesses = [{"key": "pk_" + f"{n}" * 43} for n in range(6)]
        answers = [await visit(server, guess) for guess in guesses]
        assert [answer.status for answer in answers] == [401] * 4 + [429] * 2
        assert code(await visit(server, {"key": made["key"]})) == (429, "rate_limited")


async def test_without_limits_a_tier_is_no_limit_but_a_rate_is(tmp_path: Path) -> None:
    async with running_server(tmp_path, limits=False) as server:
        free, rated = await make_key(server, tier="free"), await make_key(server, rate_limit_per_minute=1)
        assert {(await visit(server, {"key": free["key"]})).status for _ in range(12)} == {201}
        assert [(await visit(server, {"key": rated["key"]})).status for _ in range(2)] == [201, 429]


# --- secrets --------------------------------------------------------------------------------------


async def test_a_key_never_shows_in_logs_errors_metrics_or_the_store(
    server: RunningServer, log_without_errors: list[Any]
) -> None:
    made = await make_key(server)
    text = made["key"]
    answers = [
        await visit(server, {"key": text}),
        await visit(server, {"key": text}, origin=OTHER),
        await visit(server, {"key": text + "x"}),
        await visit(server, {"key": [text]}),
        await visit(server, {text: 1}),
        await ask(server, "GET", f"/v1/conversations?key={text}", X_API_Key=text),
        await ask(server, "GET", "/metrics"),
    ]
    client = await server.open(origin=SHOP)
    said = await client.ask("hello", token=text)
    secret = text[3:30]
    assert secret not in str(said)
    for answer in answers[:4] + answers[5:]:
        assert secret.encode() not in answer.body
    assert secret not in str(log_without_errors)
    kept = await server.application.store.api_keys(TENANT)
    assert secret not in str(kept)
    assert orjson.dumps(kept[0].sha256)
