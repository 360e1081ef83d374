"""Who is told what, and in which order (``docs/reference/protocol.md``, rules 6 to 11)."""

import asyncio
from typing import Any

import pytest

from protocol.errors import ErrorCode, Refused
from server.delivery.catchup import HEAL_AFTER_MS, REPLAY_MAX_EVENTS
from server.delivery.frames import FRAME_MAX_BYTES
from server.delivery.topics import WATCHED_MAX
from server.engine.types import Publication
from storage.base import StoreUnavailable
from storage.memory.store import MemoryStore
from storage.models import EventBatch
from tests.support.delivery import (
    AGENT,
    INSPECTOR,
    OWNER,
    STRANGER,
    TENANT,
    FakeWatcher,
    Log,
    ManualTime,
    hub_over,
    settle,
    watch,
)


def spans(watcher: FakeWatcher) -> list[tuple[int, int]]:
    return [(frame["from"], frame["to"]) for frame in watcher.of_type("events")]


def offsets(watcher: FakeWatcher) -> list[int]:
    return [event["offset"] for frame in watcher.of_type("events") for event in frame["events"]]


# --- subscribing ----------------------------------------------------------------------------------


async def test_a_watcher_gets_the_reply_then_a_snapshot_then_what_happens() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await log.commit("conversation.created", ("message.completed", {"text": "hi"}))
    standing = await watch(hub, watcher)
    assert (standing.epoch, standing.offset, standing.recovered) == ("e1", 2, False)
    hub.publish(await log.say())
    assert [frame["type"] for frame in watcher.frames] == ["reply", "snapshot", "events"]
    assert watcher.frames[1]["offset"] == 2
    assert watcher.frames[1]["epoch"] == "e1"
    assert [message["text"] for message in watcher.frames[1]["messages"]] == ["hi"]
    assert spans(watcher) == [(3, 3)]


async def test_a_watcher_that_resumes_gets_exactly_what_it_missed() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    for _ in range(4):
        await log.commit("a.b", "a.c")
    standing = await watch(hub, watcher, resume=("e1", 3))
    assert standing.recovered
    assert [frame["type"] for frame in watcher.frames] == ["reply", "events"]
    assert spans(watcher) == [(4, 8)]
    assert offsets(watcher) == [4, 5, 6, 7, 8]


async def test_a_watcher_that_missed_nothing_gets_nothing() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await log.say()
    assert (await watch(hub, watcher, resume=("e1", 1))).recovered
    assert [frame["type"] for frame in watcher.frames] == ["reply"]
    hub.publish(await log.say())
    assert spans(watcher) == [(2, 2)]


@pytest.mark.parametrize("resume", [None, ("e0", 2), (None, 0), ("e1", 99), ("e1", 1)])
async def test_who_cannot_be_brought_up_event_by_event_gets_a_snapshot(resume: Any) -> None:
    """No resume, another epoch, none at all, an offset above ours, a reset in between."""
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await log.say()
    await log.say()
    await log.reset()
    standing = await watch(hub, watcher, resume=resume)
    assert not standing.recovered
    assert [frame["type"] for frame in watcher.frames] == ["reply", "snapshot"]
    assert watcher.frames[1]["messages"] == []


async def test_a_resume_at_the_reset_itself_is_replayed() -> None:
    log, watcher = Log(), FakeWatcher()
    await log.say()
    await log.reset()
    await log.say()
    assert (await watch(hub_over(log), watcher, resume=("e1", 2))).recovered


async def test_more_than_a_thousand_missed_events_are_a_snapshot() -> None:
    log = Log()
    for _ in range(REPLAY_MAX_EVENTS // 100):
        await log.commit(*["a.b"] * 100)
    hub = hub_over(log)
    assert (await watch(hub, FakeWatcher(), resume=("e1", 0))).recovered
    await log.commit("a.b")
    assert not (await watch(hub, FakeWatcher(), resume=("e1", 0))).recovered
    assert (await watch(hub, FakeWatcher(), resume=("e1", 1))).recovered


async def test_more_than_half_a_mebibyte_missed_is_a_snapshot() -> None:
    log = Log()
    for _ in range(9):
        await log.commit(("flow.custom", {"name": "n", "payload": "x" * 60_000}))
    hub = hub_over(log)
    assert not (await watch(hub, FakeWatcher(), resume=("e1", 0))).recovered
    assert (await watch(hub, FakeWatcher(), resume=("e1", 5))).recovered


async def test_a_replay_is_cut_into_frames_at_commits() -> None:
    log, watcher = Log(), FakeWatcher()
    for _ in range(7):
        await log.commit(("flow.custom", {"name": "n", "payload": "x" * 30_000}), "a.b")
    await watch(hub_over(log), watcher, resume=("e1", 0))
    assert all(len(raw) <= 80_000 for raw in watcher.wire.raw)
    assert len(spans(watcher)) > 1
    ends = [0, *(to for _, to in spans(watcher))]
    assert [first for first, _ in spans(watcher)] == [end + 1 for end in ends[:-1]]
    assert ends[-1] == 14
    assert all(end % 2 == 0 for end in ends)


async def test_a_commit_without_anything_visible_comes_empty() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await log.say()
    await watch(hub, watcher)
    hub.publish(await log.commit(("step.started", {}, "full"), ("step.completed", {}, "full")))
    assert watcher.of_type("events")[-1]["events"] == []
    assert spans(watcher) == [(2, 3)]
    later = FakeWatcher()
    await watch(hub, later, resume=("e1", 1))
    assert later.of_type("events") == [watcher.of_type("events")[-1]]


async def test_each_audience_sees_its_own_events_with_the_log_s_offsets() -> None:
    log = Log()
    hub = hub_over(log)
    await log.say()
    watchers = [FakeWatcher(OWNER), FakeWatcher(AGENT), FakeWatcher(INSPECTOR)]
    for watcher in watchers:
        await watch(hub, watcher)
    hub.publish(
        await log.commit(("slots.updated", {"slots": {}}), ("step.started", {}, "full"), ("a.b", {}, "agent"))
    )
    assert [offsets(watcher) for watcher in watchers] == [[2], [4], [2, 3, 4]]
    assert {tuple(spans(watcher)) for watcher in watchers} == {((2, 4),)}


async def test_a_replay_shows_what_live_delivery_showed() -> None:
    log = Log()
    hub = hub_over(log)
    await log.say()
    for principal in (OWNER, AGENT, INSPECTOR):
        live, late = FakeWatcher(principal), FakeWatcher(principal)
        await watch(hub, live)
        start = live.frames[-1]["offset"]
        hub.publish(await log.commit(("slots.updated", {"slots": {}}), ("a.b", {}, "full"), "a.c"))
        await watch(hub, late, resume=("e1", start))
        assert late.of_type("events") == live.of_type("events")


async def test_another_owner_s_conversation_is_refused_and_leaves_nothing_behind() -> None:
    log, watcher = Log(), FakeWatcher(STRANGER)
    hub = hub_over(log)
    await log.say()
    with pytest.raises(Refused) as refused:
        await watch(hub, watcher)
    assert refused.value.code is ErrorCode.CONVERSATION_NOT_FOUND
    assert watcher.frames == []
    assert hub.watched == 0
    hub.publish(await log.say())
    assert watcher.frames == []


async def test_a_connection_watches_a_hundred_conversations() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    for number in range(WATCHED_MAX):
        await watch(hub, watcher, conversation_id=f"c{number}")
    with pytest.raises(Refused) as refused:
        await watch(hub, watcher, conversation_id="one-more")
    assert refused.value.code is ErrorCode.BAD_REQUEST
    await watch(hub, watcher, conversation_id="c5")
    assert hub.unsubscribe(watcher, "c5")
    await watch(hub, watcher, conversation_id="one-more")


async def test_dropping_a_watcher_leaves_nothing_behind() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await log.say()
    await watch(hub, watcher)
    hub.drop(watcher)
    assert hub.watched == 0
    assert watcher.subscriptions == {}
    assert not hub.unsubscribe(watcher, "c1")


async def test_the_store_being_away_refuses_before_anything_is_sent() -> None:
    log, watcher = Log(), FakeWatcher()
    await log.say()

    async def away(_tenant: str, _conversation: str) -> Any:
        raise StoreUnavailable("away")

    hub = hub_over(log)
    hub.catchup._read = away
    with pytest.raises(StoreUnavailable):
        await watch(hub, watcher)
    assert watcher.frames == []
    assert hub.watched == 0


# --- what is prepared while the disk works --------------------------------------------------------


async def test_what_was_prepared_shows_only_once_it_is_published() -> None:
    log, watcher, boss = Log(), FakeWatcher(), FakeWatcher(INSPECTOR)
    hub = hub_over(log)
    await log.say()
    await watch(hub, watcher)
    await watch(hub, boss)
    publication = await log.commit("a.b", ("a.c", {}, "full"))
    hub.prepare(publication)
    assert offsets(watcher) == offsets(boss) == []
    hub.publish(publication)
    assert (offsets(watcher), offsets(boss)) == ([2], [2, 3])
    assert spans(watcher) == spans(boss) == [(2, 3)]


async def test_a_commit_that_was_prepared_and_failed_is_never_told() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await watch(hub, watcher)
    hub.prepare(await Log().say("lost"))
    hub.publish(await log.say("kept"))
    hub.prepare(await log.say("never published"))
    assert [e["data"]["text"] for f in watcher.of_type("events") for e in f["events"]] == ["kept"]


async def test_whose_scopes_went_since_it_was_prepared_sees_what_the_rest_allow() -> None:
    log, boss = Log(), FakeWatcher(INSPECTOR)
    hub = hub_over(log)
    await log.say()
    await watch(hub, boss)
    publication = await log.commit(("a.b", {}, "full"), ("a.c", {}, "agent"))
    hub.prepare(publication)
    boss.principal = type(INSPECTOR)("boss", TENANT, scopes=AGENT.scopes)
    hub.reauthorise(boss)
    hub.publish(publication)
    assert offsets(boss) == [3]


# --- resuming on a live socket --------------------------------------------------------------------


async def test_resuming_on_a_live_socket_replays_from_the_offset() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await log.say()
    await watch(hub, watcher)
    for _ in range(3):
        hub.publish(await log.say())
    await watch(hub, watcher, resume=("e1", 2))
    assert spans(watcher)[3:] == [(3, 4)]
    hub.publish(await log.say())
    assert spans(watcher)[4:] == [(5, 5)]
    assert hub.watched == 1


# --- a conversation that does not exist -----------------------------------------------------------


async def test_who_waits_for_a_conversation_gets_its_first_events() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    standing = await watch(hub, watcher)
    assert (standing.epoch, standing.offset, standing.recovered) == (None, 0, True)
    assert [frame["type"] for frame in watcher.frames] == ["reply"]
    assert hub.offsets(watcher) == {"c1": 0}
    hub.publish(await log.commit("conversation.created", "a.b"))
    hub.publish(await log.say())
    assert spans(watcher) == [(1, 2), (3, 3)]
    assert watcher.frames[1]["epoch"] == "e1"


async def test_who_resumes_a_conversation_that_does_not_exist_is_told_so() -> None:
    log, watcher = Log(), FakeWatcher()
    standing = await watch(hub_over(log), watcher, resume=("e0", 7))
    assert not standing.recovered
    snapshot = watcher.frames[1]
    assert snapshot == {
        "type": "snapshot", "conversation_id": "c1", "epoch": None, "offset": 0, "state": None,
        "messages": [], "before": None, "pending": [], "partials": [],
    }  # fmt: skip


async def test_who_waited_for_what_another_created_is_detached_silently() -> None:
    log, owner, other = Log(), FakeWatcher(OWNER), FakeWatcher(STRANGER)
    hub = hub_over(log)
    await watch(hub, other)
    await watch(hub, owner)
    hub.publish(await log.commit("conversation.created"))
    hub.publish(await log.say())
    assert spans(owner) == [(1, 1), (2, 2)]
    assert [frame["type"] for frame in other.frames] == ["reply"]
    assert other.subscriptions == {}


async def test_deletion_ends_all_subscriptions_with_a_notice() -> None:
    log, owner, agent = Log(), FakeWatcher(OWNER), FakeWatcher(AGENT)
    hub = hub_over(log)
    await log.say()
    await watch(hub, owner)
    await watch(hub, agent)
    hub.publish(await log.erase())
    notice = {"type": "unsubscribed", "conversation_id": "c1", "code": "conversation_not_found"}
    assert owner.frames[-1] == agent.frames[-1] == notice
    assert hub.watched == 0


async def test_a_deleted_conversation_is_missing() -> None:
    log, watcher = Log(), FakeWatcher(STRANGER)
    await log.say()
    await log.erase()
    standing = await watch(hub_over(log), watcher)
    assert (standing.epoch, standing.recovered) == (None, True)


# --- order ----------------------------------------------------------------------------------------


async def test_commits_that_come_early_wait_for_the_one_before() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await log.say()
    await watch(hub, watcher)
    second, third, fourth = await log.say(), await log.say(), await log.say()
    hub.publish(fourth)
    hub.publish(third)
    assert spans(watcher) == []
    hub.publish(second)
    assert spans(watcher) == [(2, 2), (3, 3), (4, 4)]


async def test_what_came_before_is_dropped() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    first = await log.say()
    await watch(hub, watcher)
    second = await log.say()
    for publication in (first, second, second, first):
        hub.publish(publication)
    assert spans(watcher) == [(2, 2)]


async def test_a_gap_is_healed_from_the_store_after_a_second() -> None:
    log, watcher, time = Log(), FakeWatcher(), ManualTime()
    hub = hub_over(log, time)
    await log.say()
    await watch(hub, watcher)
    await log.commit("a.lost", "a.lost")
    hub.publish(await log.say())
    hub.tick(time.now)
    await settle(hub)
    assert spans(watcher) == []
    time.now += HEAL_AFTER_MS
    hub.tick(time.now)
    await settle(hub)
    assert spans(watcher) == [(2, 3), (4, 4)]
    assert hub.healed == 1
    hub.publish(await log.say())
    assert spans(watcher)[-1] == (5, 5)


async def test_a_gap_waits_for_the_store_to_come_back() -> None:
    log, watcher, time = Log(), FakeWatcher(), ManualTime()
    hub = hub_over(log, time)
    await log.say()
    await watch(hub, watcher)
    await log.say()
    hub.publish(await log.say())
    right, away = hub.catchup._read, [True]

    async def read(tenant_id: str, conversation_id: str) -> Any:
        if away:
            raise StoreUnavailable("away")
        return await right(tenant_id, conversation_id)

    hub.catchup._read = read
    for _ in range(3):
        time.now += HEAL_AFTER_MS
        hub.tick(time.now)
        await settle(hub)
    assert spans(watcher) == []
    away.clear()
    time.now += HEAL_AFTER_MS
    hub.tick(time.now)
    await settle(hub)
    assert spans(watcher) == [(2, 2), (3, 3)]


async def test_another_life_of_the_conversation_brings_a_snapshot() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await log.say()
    await watch(hub, watcher)
    other = Log(MemoryStore(), lives=1)
    log.store = hub.catchup._store = other.store
    hub.publish(await other.commit("conversation.created", ("message.completed", {"text": "anew"})))
    await settle(hub)
    assert watcher.frames[-1]["type"] == "snapshot"
    assert watcher.frames[-1]["epoch"] == "e2"
    hub.publish(await other.say())
    assert (watcher.frames[-1]["epoch"], spans(watcher)) == ("e2", [(3, 3)])


async def test_a_commit_too_large_for_a_frame_is_a_snapshot() -> None:
    log, watcher = Log(), FakeWatcher(INSPECTOR)
    hub = hub_over(log)
    await log.say()
    await watch(hub, watcher)
    large = tuple(("flow.custom", {"name": "n", "payload": '"' * 40_000}) for _ in range(8))
    hub.publish(await log.commit(*large))
    await settle(hub)
    assert watcher.frames[-1]["type"] == "snapshot"
    assert watcher.frames[-1]["offset"] == 9
    assert max(map(len, watcher.wire.raw)) <= FRAME_MAX_BYTES
    hub.publish(await log.say())
    assert spans(watcher) == [(10, 10)]


# --- slow sockets ---------------------------------------------------------------------------------


async def test_a_replay_is_read_as_fast_as_the_socket_drains() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    for _ in range(12):
        await log.commit(("flow.custom", {"name": "n", "payload": "x" * 40_000}))
    watcher.wire.stop_reading()
    subscribing = asyncio.create_task(watch(hub, watcher, resume=("e1", 0)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert watcher.outbox.waiting_bytes < 200_000
    hub.publish(await log.say())  # meanwhile
    watcher.wire.read_on()
    await subscribing
    assert [event for _, event in spans(watcher)][-1] == 13
    assert offsets(watcher) == list(range(1, 14))


async def test_a_watcher_that_is_gone_in_mid_replay_leaves_nothing_behind() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    for _ in range(3):
        await log.commit(("flow.custom", {"name": "n", "payload": "x" * 40_000}))
    watcher.wire.stop_reading()
    subscribing = asyncio.create_task(watch(hub, watcher, resume=("e1", 0)))
    await asyncio.sleep(0.01)
    watcher.outbox.discard()
    hub.drop(watcher)
    await subscribing
    assert hub.watched == 0


class SlowStore(MemoryStore):
    """A store that answers who asks for messages only once ``answers`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()

    async def messages(self, *args: Any, **kwargs: Any) -> list[EventBatch]:
        await self.answers.wait()
        return await super().messages(*args, **kwargs)


async def test_a_slow_store_keeps_nobody_from_the_connection_s_next_frame() -> None:
    store = SlowStore()
    log, watcher = Log(store), FakeWatcher()
    hub = hub_over(log)
    await log.commit(("message.completed", {"text": "hi"}))
    async with asyncio.timeout(20):
        await watch(hub, watcher)  # returns, though the snapshot is still to come
        hub.publish(await log.say("meanwhile"))
        assert [frame["type"] for frame in watcher.frames] == ["reply"]
        store.answers.set()
        while len(watcher.frames) < 3:
            await asyncio.sleep(0)
    assert [frame["type"] for frame in watcher.frames] == ["reply", "snapshot", "events"]
    assert (watcher.frames[1]["offset"], offsets(watcher)) == (1, [2])


# --- the rest -------------------------------------------------------------------------------------


async def test_a_ping_tells_the_last_offset_put_in_this_outbox() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await log.say()
    await watch(hub, watcher)
    await watch(hub, watcher, conversation_id="c9")
    assert hub.offsets(watcher) == {"c1": 1, "c9": 0}
    hub.publish(await log.say())
    assert hub.offsets(watcher) == {"c1": 2, "c9": 0}


async def test_scopes_that_are_gone_end_the_subscriptions_that_needed_them() -> None:
    log = Log()
    hub = hub_over(log)
    await log.say()
    boss, owner = FakeWatcher(INSPECTOR), FakeWatcher(OWNER)
    await watch(hub, boss)
    await watch(hub, owner)
    boss.principal = type(INSPECTOR)("boss", TENANT, scopes=AGENT.scopes)
    hub.reauthorise(boss)
    hub.reauthorise(owner)
    hub.publish(await log.commit(("a.b", {}, "full"), ("a.c", {}, "agent")))
    assert offsets(boss) == [3]
    boss.principal = type(INSPECTOR)("boss", TENANT)
    hub.reauthorise(boss)
    assert boss.frames[-1]["type"] == "unsubscribed"
    assert boss.subscriptions == {}
    assert "c1" in owner.subscriptions


class HeldStore(MemoryStore):
    """Answers what it is asked for messages when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = asyncio.Event(), asyncio.Event()

    async def messages(self, *args: Any, **kwargs: Any) -> Any:
        self.asked.set()
        await self.let.wait()
        return await super().messages(*args, **kwargs)


async def test_scopes_that_go_while_a_snapshot_is_made_count_for_it() -> None:
    store = HeldStore()
    log, boss, helper = Log(store), FakeWatcher(INSPECTOR), FakeWatcher(INSPECTOR)
    hub = hub_over(log)
    await log.commit(("message.completed", {"text": "hi"}), ("message.completed", {"text": "hush"}, "full"))
    watching = [asyncio.create_task(watch(hub, watcher)) for watcher in (boss, helper)]
    await store.asked.wait()
    boss.principal = type(INSPECTOR)("boss", TENANT)
    helper.principal = AGENT
    for watcher in (boss, helper):
        hub.reauthorise(watcher)
    store.let.set()
    await asyncio.gather(*watching)
    await settle(hub)
    hub.publish(await log.commit(("a.b", {}, "full"), ("a.c", {}, "agent")))
    assert [frame["type"] for frame in boss.frames] == ["reply", "unsubscribed"]
    assert boss.frames[-1]["code"] == "permission_denied"
    assert boss.subscriptions == {}
    assert [frame["type"] for frame in helper.frames] == ["reply", "snapshot", "events"]
    assert [message["text"] for message in helper.frames[1]["messages"]] == ["hi"]
    assert offsets(helper) == [4]


async def test_scopes_that_go_while_a_replay_is_sent_count_for_the_rest_of_it() -> None:
    log, boss = Log(), FakeWatcher(INSPECTOR)
    hub = hub_over(log)
    for _ in range(4):
        await log.commit(("a.b", {"text": "x" * 50_000}, "full"), "a.c")
    boss.wire.reading = False
    watching = asyncio.create_task(watch(hub, boss, resume=("e1", 0)))
    while boss.outbox.has_room:
        await asyncio.sleep(0)
    boss.principal = AGENT
    hub.reauthorise(boss)
    told = len(boss.frames)
    assert spans(boss)[-1][1] < 8
    boss.wire.read_on()
    await watching
    await settle(hub)
    assert [frame["type"] for frame in boss.frames[told:]] == ["snapshot"]
    hub.publish(await log.commit(("a.b", {}, "full"), ("a.c", {}, "agent")))
    assert [event["type"] for event in boss.frames[-1]["events"]] == ["a.c"]


async def test_who_waits_for_a_conversation_goes_on_waiting_whatever_scopes_go() -> None:
    log, boss = Log(), FakeWatcher(INSPECTOR)
    hub = hub_over(log)
    await watch(hub, boss)
    boss.principal = type(INSPECTOR)("u1", TENANT)
    hub.reauthorise(boss)
    hub.publish(await log.say())
    assert offsets(boss) == [1]


async def test_typing_reaches_the_others_and_only_from_who_watches() -> None:
    log = Log()
    hub = hub_over(log)
    await log.say()
    owner, second, agent, outside = (FakeWatcher(p) for p in (OWNER, OWNER, AGENT, AGENT))
    for watcher in (owner, second, agent):
        await watch(hub, watcher)
    hub.typing(agent, "c1", True)
    hub.typing(outside, "c1", True)
    notice = {"type": "typing", "conversation_id": "c1", "user_id": "agent", "typing": True}
    assert owner.of_type("typing") == second.of_type("typing") == [notice]
    assert agent.of_type("typing") == []


async def test_a_streamed_message_is_in_the_snapshot_until_it_is_complete() -> None:
    log, first, second, third = Log(), FakeWatcher(), FakeWatcher(), FakeWatcher()
    hub = hub_over(log)
    await log.say()
    await watch(hub, first)
    for index, delta in enumerate(["Hel", "lo"]):
        hub.publish_delta(TENANT, "c1", "e1", "x1", "m9", index, delta)
    assert [frame["delta"] for frame in first.of_type("message.delta")] == ["Hel", "lo"]
    await watch(hub, second)
    assert second.frames[-1]["partials"] == [{"message_id": "m9", "text": "Hello", "next_index": 2}]
    hub.publish(await log.commit(("message.completed", {"message_id": "m9", "text": "Hello"})))
    await watch(hub, third)
    assert third.frames[-1]["partials"] == []


async def test_hints_are_not_kept_for_a_socket_that_takes_nothing() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    await log.say()
    await watch(hub, watcher)
    watcher.wire.stop_reading()
    hub.publish_delta(TENANT, "c1", "e1", "x1", "m9", 0, "x" * 100)
    watcher.wire.read_on()
    assert watcher.of_type("message.delta") == []


async def test_what_nobody_watches_costs_nothing() -> None:
    log = Log()
    hub = hub_over(log)
    hub.publish(await log.say())
    hub.publish_delta(TENANT, "c1", "e1", "x1", "m9", 0, "x")
    assert hub.watched == 0


async def test_a_commit_is_encoded_once_for_all_who_see_the_same() -> None:
    log = Log()
    hub = hub_over(log)
    await log.say()
    watchers = [FakeWatcher() for _ in range(3)]
    for watcher in watchers:
        await watch(hub, watcher)
    hub.publish(await log.say())
    sent = {id(watcher.wire.raw[-1]) for watcher in watchers}
    assert len(sent) == 1


async def test_an_enqueue_without_events_is_not_told() -> None:
    log, watcher = Log(), FakeWatcher()
    hub = hub_over(log)
    first = await log.say()
    await watch(hub, watcher)
    hub.publish(Publication(first.record, None))
    empty = EventBatch("e1", 2, 1, "k", None, None, ())
    hub.publish(Publication(first.record, empty))
    assert spans(watcher) == []
