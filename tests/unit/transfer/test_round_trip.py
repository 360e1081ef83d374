"""What is exported and imported is what it was: the same lines but for the epoch, and it goes on."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

from server.auth.principal import Principal
from server.engine.catalog import SHARED
from server.transfer.exporting import NoSuchConversation, Wanted, export
from server.transfer.importing import BrokenFile, Imported, check, read_in, taken
from server.transfer.masking import MaskUnknown
from storage.base import Store
from storage.memory import MemoryStore
from storage.models import FlowVersion
from storage.sqlite import SqliteStore
from tests.support.records import buried, committed, conversation
from tests.support.talk import TENANT, Talk
from tests.support.world import VirtualClock

ORDER = """\
flow: order
triggers: {intents: [{name: order, keywords: [coffee]}]}
slots:
  size: {type: choice, options: [small, large]}
  email: {type: email, pii: true}
variables: {number: null}
steps:
  - id: what
    collect: [size, email]
    ask: {size: "Which size?", email: "Your email?"}
  - {id: book, action: shop.book, effect: EFFECT, with: {to: "${slots.email}"}, save: variables.number}
  - {id: thanks, say: "A ${slots.size} coffee for ${slots.email}, number ${variables.number}."}
  - {id: done, end: completed}
"""


async def published(store: Store, source: str) -> int:
    digest = sha256(source.encode()).hexdigest()
    version = FlowVersion(SHARED, "order", 0, digest, source, "flows/order.yaml")
    return (await store.publish(version, name="Order", description="", is_default=False)).version


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


class Stores:
    """Stores of one kind, opened as they are asked for."""

    def __init__(self, kind: str, folder: Path, clock: VirtualClock) -> None:
        self.kind, self.folder, self.clock = kind, folder, clock
        self.opened: list[Store] = []

    async def another(self) -> Store:
        path = self.folder / f"{len(self.opened)}.db"
        now = self.clock.now
        store: Store = MemoryStore(now) if self.kind == "memory" else SqliteStore(path, clock=now)
        await store.open()
        self.opened.append(store)
        return store


@pytest.fixture
async def stores(kind: str, tmp_path: Path) -> AsyncIterator[Stores]:
    stores = Stores(kind, tmp_path, VirtualClock())
    yield stores
    for store in stores.opened:
        await store.close()


async def lines_of(store: Store, **wanted: Any) -> list[bytes]:
    return [line async for line in export(store, Wanted(TENANT, **wanted))]


async def moved(lines: Sequence[bytes], target: Store, folder: Path, tenant_id: str = TENANT) -> Imported:
    path = folder / "export.jsonl"
    path.write_bytes(b"".join(lines))
    check(path)
    return await read_in(target, path, tenant_id)


def without_epochs(lines: Sequence[bytes]) -> list[bytes]:
    return [re.sub(rb'"epoch":"[^"]*"', b'"epoch":""', line) for line in lines]


async def book(context: Any, to: str) -> int:
    return 7


def talk_on(store: Store, stores: Stores, book: Callable[..., Any] = book) -> Talk:
    return Talk(
        ORDER.replace("EFFECT", "idempotent"),
        store=store,
        clock=stores.clock,
        actions={"shop.book": book},
    )


async def quiet(talk: Talk, id_: str = "c1") -> None:
    """Wait until nothing runs or waits in a conversation."""
    while (await talk.record(id_)).busy:
        await asyncio.sleep(0)


def ids(lines: Sequence[bytes]) -> list[str]:
    documents = [json.loads(line) for line in lines]
    return [d["conversation"]["conversation_id"] for d in documents if "conversation" in d]


async def grown(stores: Stores) -> Store:
    """Return a store in which one conversation has ended, one is asked, and one was deleted."""
    store = await stores.another()
    await published(store, ORDER.replace("EFFECT", "idempotent"))
    talk = talk_on(store, stores)
    await talk.engine.start()
    for id_, says in {"c1": ["coffee", "small", "ann@x.example"], "c2": ["coffee", "large"]}.items():
        for text in says:
            await talk.say(text, to=id_)
            await quiet(talk, id_)
    await talk.say("coffee", to="gone")
    await talk.engine.stop(0)
    await buried(store, await talk.record("gone"))
    return store


async def test_an_export_of_an_import_is_the_export(stores: Stores, tmp_path: Path) -> None:
    first = await lines_of(await grown(stores))
    target = await stores.another()
    await moved(first, target, tmp_path)
    second = await lines_of(target)
    assert first != second, "the epochs are new"
    assert without_epochs(first) == without_epochs(second)
    assert sum(line.startswith(b'{"conversation"') for line in first) == 2, "deleted ones are left out"
    assert sum(line.startswith(b'{"flow"') for line in first) == 1, "the flow of what goes on"


async def test_it_goes_on_where_it_was(stores: Stores, tmp_path: Path) -> None:
    first = await lines_of(await grown(stores))
    target = await stores.another()
    await published(target, "flow: order\nsteps: [{id: other, say: Another.}]\n")
    await moved(first, target, tmp_path)
    talk = talk_on(target, stores)
    talk.offer(ORDER.replace("EFFECT", "idempotent"), 2)
    before = await talk.record("c2")
    assert before.execution is not None
    assert before.execution.frames[0].version == before.execution.flow_version == 2, "1 is another one here"
    await talk.engine.start()
    await talk.say("bea@x.example", to="c2", key="key-90001")
    await quiet(talk, "c2")
    after = await talk.record("c2")
    assert after.execution is not None
    assert (after.execution.status, after.slots["email"]) == ("completed", "bea@x.example")
    again = await talk.say("coffee", to="c1", key="key-00001")
    assert again.status == "completed", "what was sent before the move is known after it"
    assert (await talk.record("c1")).revision == 1
    await talk.engine.stop(0)


async def test_a_running_effect_is_one_whose_owner_died(stores: Stores, tmp_path: Path) -> None:
    """It runs again under its key, and what waited behind it comes next."""
    source = await stores.another()
    held = asyncio.Event()
    keys: list[str] = []

    async def book(context: Any, to: str) -> int:
        keys.append(context.key)
        if len(keys) == 1:
            await held.wait()
        return 7

    await published(source, ORDER.replace("EFFECT", "idempotent"))
    talk = talk_on(source, stores, book=book)
    await talk.engine.start()
    for text in ("coffee", "small", "ann@x.example"):
        await talk.say(text)
    assert (await talk.say("coffee", key="key-90001")).status == "queued"
    while not keys:
        await asyncio.sleep(0)
    lines = await lines_of(source)
    await talk.engine.stop(0)

    target = await stores.another()
    await moved(lines, target, tmp_path)
    assert without_epochs(await lines_of(target)) == without_epochs(lines)
    imported = await target.load(TENANT, "c1")
    assert imported is not None
    assert imported.lease is None
    elsewhere = talk_on(target, stores, book=book)
    await elsewhere.engine.start()
    for _ in range(50):
        await elsewhere.wait(1000)
    assert len(keys) == 2
    assert keys[0] == keys[1]
    record = await elsewhere.record()
    assert [key.status for key in record.recent if key.key == "key-90001"] == ["completed"]
    assert record.status == "waiting_input", "the queued message has begun anew"
    await elsewhere.engine.stop(0)


async def test_importing_again_adds_nothing(stores: Stores, tmp_path: Path) -> None:
    first = await lines_of(await grown(stores))
    target = await stores.another()
    done = await moved(first, target, tmp_path)
    assert (done.imported, done.skipped, done.published) == (2, 0, 1)
    before = await lines_of(target)
    assert await taken(target, tmp_path / "export.jsonl", TENANT) == ["c1", "c2"]
    again = await moved(first, target, tmp_path)
    assert (again.imported, again.skipped, again.published) == (0, 2, 0)
    assert await lines_of(target) == before


async def test_what_was_deleted_stays_deleted(stores: Stores, tmp_path: Path) -> None:
    source = await grown(stores)
    first = await lines_of(source)
    record = await source.load(TENANT, "c1")
    assert record is not None
    await buried(source, record)
    done = await moved(first, source, tmp_path)
    assert (done.imported, done.skipped) == (0, 2)
    deleted = await source.load(TENANT, "c1")
    assert deleted is not None
    assert deleted.deleted_at is not None


async def test_conversations_are_chosen_by_id_and_by_user(stores: Stores) -> None:
    store = await grown(stores)
    other = talk_on(store, stores)
    await other.engine.start()
    await other.say("coffee", to="c3", who=Principal("u2", TENANT))
    await other.engine.stop(0)
    assert ids(await lines_of(store, conversations=("c2", "c1", "c2"))) == ["c1", "c2"]
    assert ids(await lines_of(store, user_id="u2")) == ["c3"]
    for missing in ("gone", "never"):
        with pytest.raises(NoSuchConversation, match=missing):
            await lines_of(store, conversations=("c1", missing))


async def test_another_tenant_takes_them_over(stores: Stores, tmp_path: Path) -> None:
    first = await lines_of(await grown(stores))
    target = await stores.another()
    await moved(first, target, tmp_path, tenant_id="acme")
    assert await target.conversation_ids("acme") == ["c1", "c2"]
    assert await target.conversation_ids(TENANT) == []


async def test_nothing_personal_is_left_in_a_masked_export(stores: Stores, tmp_path: Path) -> None:
    store = await grown(stores)
    talk = talk_on(store, stores)
    await talk.engine.start()
    for text in ("coffee", "small", "my address is Mia@X.example!!", "MIA@x.example"):
        await talk.say(text, to="c4")
        await quiet(talk, "c4")
    await talk.engine.stop(0)
    plain, masked = await lines_of(store), await lines_of(store, mask_pii=True)
    for name in (b"ann@x.example", b"mia@x.example"):
        assert name in b"".join(plain).lower()
        assert name not in b"".join(masked).lower()
    assert b"my address" not in b"".join(masked)
    assert b"small coffee for masked@example.com" in b"".join(masked)
    assert b'"size":"small"' in b"".join(masked), "what is not personal stays"
    target = await stores.another()
    await moved(masked, target, tmp_path)
    record = await target.load(TENANT, "c1")
    assert record is not None
    assert record.slots["email"] == "masked@example.com"


async def test_what_is_personal_is_found_in_any_case_and_under_any_name(stores: Stores) -> None:
    """Lower case is not of the same letters everywhere, and what an action names is no word of ours."""
    source = (
        ORDER.replace("EFFECT", "idempotent")
        .replace("email: {type: email, pii: true}", "email: {type: text, pii: true}")
        .replace("number ${variables.number}", "number ${variables.number.by}")
    )

    async def book(context: Any, to: str) -> dict[str, Any]:
        return {"by": to, "code": to.upper(), "of": {to: [to]}}

    store = await stores.another()
    await published(store, source)
    talk = Talk(source, store=store, clock=stores.clock, actions={"shop.book": book})
    await talk.engine.start()
    for text in ("coffee", "small", "İsmail Strauß"):
        await talk.say(text)
        await quiet(talk, "c1")
    await talk.engine.stop(0)
    plain = b"".join(await lines_of(store)).decode()
    masked = b"".join(await lines_of(store, mask_pii=True)).decode()
    for name in ("İsmail Strauß", "İSMAIL STRAUSS"):
        assert name in plain
        assert name not in masked


async def test_a_flow_that_no_longer_compiles_keeps_a_masked_export_back(stores: Stores) -> None:
    store = await grown(stores)
    await published(store, "flow: order\nsteps: 7\n")
    with pytest.raises(MaskUnknown, match="version 2 of flow order"):
        await lines_of(store, mask_pii=True)


async def test_a_long_conversation_comes_whole(stores: Stores, tmp_path: Path) -> None:
    store = await stores.another()
    record = conversation()
    for n in range(1200):
        record = await committed(store, record, key=f"key-{n:05d}")
    lines = await lines_of(store)
    target = await stores.another()
    await moved(lines, target, tmp_path)
    assert without_epochs(await lines_of(target)) == without_epochs(lines)
    found = await target.find_key(TENANT, "c", "key-00003")
    assert found is not None
    assert found.first_offset == 7


# --- while a server goes on, as over MongoDB ----------------------------------------------------------


async def test_a_turn_meanwhile_is_left_out_whole(stores: Stores, tmp_path: Path) -> None:
    store = await stores.another()
    record = await committed(store, conversation("a"))
    lines = []
    async for line in export(store, Wanted(TENANT)):
        lines.append(line)
        if line.startswith(b'{"conversation"'):
            await committed(store, record)
    assert (await moved(lines, await stores.another(), tmp_path)).imported == 1


async def test_one_that_is_deleted_meanwhile_is_passed_over(stores: Stores, tmp_path: Path) -> None:
    store = await stores.another()
    await committed(store, conversation("a"))
    deleted = await committed(store, conversation("b"))
    lines = []
    async for line in export(store, Wanted(TENANT)):
        lines.append(line)
        if line.startswith(b'{"conversation"'):
            await buried(store, deleted)
    assert ids(lines) == ["a"]
    assert (await moved(lines, await stores.another(), tmp_path)).imported == 1


async def test_one_that_is_deleted_while_its_log_is_read_is_told(stores: Stores) -> None:
    """Its line is written already: a file that cannot be imported is none."""
    store = await stores.another()
    record = await committed(store, conversation("a"))
    found = export(store, Wanted(TENANT))
    while not (await anext(found)).startswith(b'{"conversation"'):
        pass
    await buried(store, record)
    await store.remove_events(TENANT, "a")
    with pytest.raises(NoSuchConversation, match="a"):
        await anext(found)


# --- broken files -------------------------------------------------------------------------------------


def changed(line: bytes, **members: object) -> bytes:
    ((kind, document),) = json.loads(line).items()
    return json.dumps({kind: {**document, **members}}).encode() + b"\n"


def another_row(line: bytes, place: int, value: object) -> bytes:
    row = json.loads(line)["batch"]
    row[place] = value
    return json.dumps({"batch": row}).encode() + b"\n"


BREAKS: dict[str, tuple[int, str, Callable[[list[bytes]], list[bytes]]]] = {
    "empty": (1, "no file that", lambda lines: []),
    "something else": (1, "no file that", lambda lines: [b'{"a":1}\n', *lines[1:]]),
    "newer": (1, "version is 2", lambda lines: [changed(lines[0], v=2), *lines[1:]]),
    "not JSON": (3, "not JSON", lambda lines: [*lines[:2], b"{\n", *lines[3:]]),
    "no object": (3, "one member", lambda lines: [*lines[:2], b"[1]\n", *lines[3:]]),
    "an unknown line": (3, "nothing is known", lambda lines: [*lines[:2], b'{"x":1}\n', *lines[3:]]),
    "a changed flow": (2, "checksum", lambda lines: [lines[0], changed(lines[1], source="x"), *lines[2:]]),
    "a nameless flow": (2, "not as an", lambda lines: [lines[0], changed(lines[1], name=None), *lines[2:]]),
    "a flow of no label": (
        2,
        "not as an",
        lambda lines: [lines[0], changed(lines[1], label=[5]), *lines[2:]],
    ),
    "a value too deep": (
        3,
        "not as an",
        lambda lines: [
            *lines[:2],
            lines[2].replace(b'"slots":{', b'"slots":{"x":' + b"[" * 900 + b"]" * 900 + b","),
            *lines[3:],
        ],
    ),
    "a missing flow": (2, "version 1 of flow order", lambda lines: [lines[0], *lines[2:]]),
    "no conversation": (3, "belongs to no", lambda lines: [*lines[:2], *lines[3:]]),
    "a missing batch": (4, "it begins at offset", lambda lines: [*lines[:3], *lines[4:]]),
    "a missing last batch": (5, "ends at offset", lambda lines: [*lines[:-2], lines[-1]]),
    "a batch twice": (5, "it begins at offset", lambda lines: [*lines[:4], *lines[3:]]),
    "wrong offsets": (4, "offsets", lambda lines: [*lines[:3], another_row(lines[3], 1, 99), *lines[4:]]),
    "broken events": (
        4,
        "not as an",
        lambda lines: [*lines[:3], another_row(lines[3], 5, [[1]]), *lines[4:]],
    ),
    "a wrong type": (3, "not as an", lambda lines: [*lines[:2], changed(lines[2], slots=[1]), *lines[3:]]),
    "no id": (3, "no id", lambda lines: [*lines[:2], changed(lines[2], conversation_id="a b"), *lines[3:]]),
    "a leased one": (3, "at rest", lambda lines: [*lines[:2], changed(lines[2], lease=["i", 1]), *lines[3:]]),
    "a newer record": (3, "newer Parley", lambda lines: [*lines[:2], changed(lines[2], v=2), *lines[3:]]),
    "another tenant": (3, "tenant", lambda lines: [*lines[:2], changed(lines[2], tenant_id="x"), *lines[3:]]),
    "a conversation twice": (6, "comes again", lambda lines: [*lines[:5], *lines[2:]]),
    "no end": (6, "torn off", lambda lines: lines[:-1]),
    "half a line": (6, "torn off", lambda lines: [*lines[:-1], lines[-1][:-3]]),
    "a wrong count": (6, "it counts", lambda lines: [*lines[:-1], changed(lines[-1], conversations=2)]),
    "more behind": (7, "follows the end", lambda lines: [*lines, lines[-1]]),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_file_is_refused_by_line(name: str, tmp_path: Path) -> None:
    store = MemoryStore()
    await published(store, ORDER.replace("EFFECT", "idempotent"))
    talk = talk_on(store, Stores("memory", tmp_path, VirtualClock()))
    await talk.engine.start()
    await talk.say("coffee")
    await talk.say("large")
    await talk.engine.stop(0)
    lines = await lines_of(store)
    assert len(lines) == 6
    line, problem, broken = BREAKS[name]
    path = tmp_path / "export.jsonl"
    path.write_bytes(b"".join(lines))
    assert check(path).conversations == 1
    path.write_bytes(b"".join(broken(lines)))
    with pytest.raises(BrokenFile, match=problem) as refused:
        check(path)
    assert refused.value.line == line


async def test_any_bytes_changed_anywhere_never_end_in_a_traceback(tmp_path: Path) -> None:
    """Whatever is changed in a file, it is read, or refused by line."""
    store = await grown(Stores("memory", tmp_path, VirtualClock()))
    whole = b"".join(await lines_of(store))
    path = tmp_path / "export.jsonl"
    random = Random(5)
    refused = 0
    for _ in range(400):
        place = random.randrange(len(whole))
        path.write_bytes(whole[:place] + random.choice(PIECES) + whole[place + random.randrange(3) :])
        try:
            check(path)
        except BrokenFile:
            refused += 1
    assert refused > 100


PIECES = (b"", b"0", b'"', b"null", b"[", b"{}", b"-", b"\n", b"\xff", b"1e999", b"9" * 30)
