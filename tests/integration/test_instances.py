"""Several instances over one store: one conversation, wherever its sockets and its owner are."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from server.handlers.conversations import LOOK_S
from tests.support.cluster import Instance, Services, cluster
from tests.support.gate import Gate, gate_named, gates
from tests.support.rest import ask, call, streamed
from tests.support.server import FLOW, Client, token

SLOW = """
flow: slow
variables: {done: null}
steps:
  - {id: begun, say: "One moment."}
  - id: work
    action: gate.hold
    with: {gate: "${input.text}"}
    effect: read
    save: variables.done
    timeout: 60s
  - {id: told, say: "It is ${variables.done}."}
  - {id: over, end: completed}
"""
HELP = """
flow: help
steps:
  - {id: human, handoff: support}
  - {id: done, end: completed}
"""
FLOWS = {"greet": FLOW, "slow": SLOW, "help": HELP}
OPERATOR = token("op", role="operator")
SETTINGS: dict[str, Any] = {"flows": FLOWS, "actions": ("tests.support.gate",)}


@pytest.fixture(params=["memory", pytest.param("services", marks=pytest.mark.needs("mongo", "redis"))])
def joined(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What joins the instances: memory that is shared inside the process, then MongoDB and Redis."""
    if request.param == "memory":
        return SETTINGS
    urls = Services(request.getfixturevalue("mongo_url"), request.getfixturevalue("redis_url"))
    return {**SETTINGS, "services": urls}


@pytest.fixture(autouse=True)
def open_gates() -> Any:
    gates.clear()
    yield
    for gate in gates.values():
        gate.open()


async def offsets(client: Client, up_to: int) -> list[int]:
    """Return the offsets that a client was told, until it was told ``up_to``."""
    told = [f for f in client.seen if f["type"] == "events"]
    while not told or told[-1]["to"] < up_to:
        told.append(await client.until("events"))
    return [event["offset"] for frame in told for event in frame["events"]]


async def slow_turn(
    client: Client, conversation_id: str = "c1", **fields: Any
) -> tuple[dict[str, Any], Gate]:
    """Begin a turn whose effect runs until its gate is opened."""
    ack = await client.say(conversation_id, conversation_id, flow_id="slow", **fields)
    assert ack["status"] == "running"
    gate = gate_named(conversation_id)
    await gate.reached()
    return ack, gate


async def test_two_devices_on_two_instances_see_the_same_events_in_the_same_order(
    tmp_path: Path, joined: dict[str, Any]
) -> None:
    async with cluster(tmp_path, **joined) as (one, two):
        here = await one.connect(conversation_id="c1")
        there = await two.connect(conversation_id="c1")
        for client, text in ((here, "hi"), (there, "Ada"), (here, "red")):
            last = await client.say("c1", text)
            assert last["type"] == "ack"
        assert await offsets(here, last["offset"]) == await offsets(there, last["offset"])
        events = [[e for f in c.seen if f["type"] == "events" for e in f["events"]] for c in (here, there)]
        assert events[0] == events[1]


async def test_a_client_resumes_on_another_instance(tmp_path: Path, joined: dict[str, Any]) -> None:
    async with cluster(tmp_path, **joined) as (one, two):
        first = await one.connect(conversation_id="c1")
        ack = await first.say("c1", "hi")
        await offsets(first, ack["offset"])
        await first.socket.close()
        speaker = await one.connect()
        later = await speaker.say("c1", "Ada")
        resume = {"epoch": ack["epoch"], "offset": ack["offset"]}
        again = await two.connect(conversation_id="c1", resume=resume)
        assert again.welcome["recovered"] is True
        assert (await offsets(again, later["offset"]))[0] > ack["offset"]


async def test_a_command_to_what_another_instance_owns_waits_and_is_run_there(
    tmp_path: Path, joined: dict[str, Any]
) -> None:
    async with cluster(tmp_path, **joined) as (one, two):
        here, there = await one.connect(conversation_id="c1"), await two.connect(conversation_id="c1")
        _, gate = await slow_turn(here)
        queued = await there.say("c1", "hello", idempotency_key="second-0001", flow_id="greet")
        assert queued["status"] == "queued"
        gate.open()
        while not any(
            e["command_id"] == "second-0001" and e["type"] == "turn.completed"
            for frame in there.seen if frame["type"] == "events" for e in frame["events"]
        ):  # fmt: skip
            await there.until("events")
        assert one.application.engine.stats.effects == 1
        assert two.application.engine.stats.commits == 0


@pytest.mark.parametrize("kind", ["cancel", "reset", "interrupt", "delete"])
async def test_what_runs_elsewhere_is_pre_empted_at_once(
    tmp_path: Path, joined: dict[str, Any], kind: str
) -> None:
    async with cluster(tmp_path, **joined) as (one, two):
        here, there = await one.connect(conversation_id="c1"), await two.connect(conversation_id="c1")
        ack, gate = await slow_turn(here)
        match kind:
            case "cancel":
                answer = await there.ask("cancel", conversation_id="c1", execution_id=ack["execution_id"])
            case "reset":
                answer = await there.ask("reset", conversation_id="c1")
            case "interrupt":
                answer = await there.say("c1", "hello", on_busy="interrupt", flow_id="greet")
            case _:
                answer = {"type": "ack"}
                assert (await call(two, "DELETE", "/conversations/c1")).status == 204
        assert answer["type"] == "ack"
        await asyncio.wait_for(gate.left.wait(), 4)  # sooner than its lease is renewed


async def test_without_the_bus_a_wish_to_interrupt_is_found_all_the_same(tmp_path: Path) -> None:
    async with cluster(tmp_path, **SETTINGS) as (one, two):
        here, there = await one.connect(), await two.connect()
        _, gate = await slow_turn(here)
        two.bus.unplug()
        queued = await there.say("c1", "hello", on_busy="interrupt", flow_id="greet")
        assert queued["status"] == "queued"
        await asyncio.wait_for(gate.left.wait(), 9)


async def test_a_rest_call_hears_at_once_that_another_instance_has_ended_its_turn(
    tmp_path: Path, joined: dict[str, Any]
) -> None:
    async with cluster(tmp_path, **joined) as (one, two):
        here = await one.connect()
        _, gate = await slow_turn(here)
        body = {"content": {"type": "text", "text": "hello"}, "flow_id": "greet"}
        waiting = asyncio.create_task(call(two, "POST", "/conversations/c1/process", body))
        while not (await two.application.engine.read("t1", "c1")).inbox:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        gate.open()
        answer = await asyncio.wait_for(waiting, LOOK_S - 0.5)  # and not when it looks again by itself
        assert (answer.status, answer.json["success"]) == (200, True)


async def test_an_inbox_hears_at_once_of_what_another_instance_did(
    tmp_path: Path, joined: dict[str, Any]
) -> None:
    service = token("svc", role="service")
    async with (
        cluster(tmp_path, **joined) as (one, two),
        streamed(two, "/inbox", who=OPERATOR) as inbox,
    ):
        assert (await inbox.next()).name == "ready"
        assert (await call(one, "POST", "/flows/help/start", {}, who=service)).status == 202
        assert (await inbox.next(timeout=4)).name == "opened"  # sooner than it looks by itself


async def readiness(server: Instance) -> tuple[int, str, dict[str, Any]]:
    answer = await ask(server, "GET", "/readyz")
    return answer.status, answer.json["status"], answer.json["checks"]


async def test_without_the_bus_an_instance_serves_and_says_that_it_is_degraded(tmp_path: Path) -> None:
    async with cluster(tmp_path, **SETTINGS) as (one, two):
        here, there = await one.connect(conversation_id="c1"), await two.connect(conversation_id="c1")
        one.bus.unplug()
        status, said, checks = await readiness(one)
        assert (status, said, checks["bus"]) == (
            200, "degraded", {"status": "down", "latency_ms": None, "reason": "no answer"},
        )  # fmt: skip
        assert (await ask(one, "GET", "/health")).json["status"] == "degraded"
        metrics = (await ask(one, "GET", "/metrics")).body.decode()
        assert "parley_bus_up 0.0" in metrics
        assert "parley_store_up 1.0" in metrics
        ack = await here.say("c1", "hi")
        assert ack["type"] == "ack"
        one.bus.plug()
        two.bus.plug()  # both have been away from each other
        assert (await offsets(there, ack["offset"]))[-1] == ack["offset"]
        assert (await readiness(one))[1] == "ok"


async def test_without_the_store_nothing_is_acknowledged_and_sockets_stay(tmp_path: Path) -> None:
    async with cluster(tmp_path, **SETTINGS) as (one, two):
        here, there = await one.connect(conversation_id="c1"), await two.connect(conversation_id="c1")
        ack = await here.say("c1", "hi")
        one.connection.away = two.connection.away = True
        for client in (here, there):
            refused = await client.say("c1", "Ada", idempotency_key="key-00000001")
            assert (refused["error"]["code"], refused["error"]["temporary"]) == ("store_unavailable", True)
        await asyncio.sleep(1.1)  # a verdict of the probe is used again for a second
        status, said, checks = await readiness(one)
        assert (status, said, checks["store"]["status"]) == (503, "store_unavailable", "down")
        assert "parley_store_up 0.0" in (await ask(one, "GET", "/metrics")).body.decode()
        one.connection.away = two.connection.away = False
        again = await there.say("c1", "Ada", idempotency_key="key-00000001")
        assert (again["duplicate"], again["offset"] > ack["offset"]) == (False, True)
        assert await offsets(here, again["offset"]) == await offsets(there, again["offset"])
        await asyncio.sleep(1.1)
        assert (await readiness(one))[:2] == (200, "ok")


async def test_an_instance_that_goes_away_hands_its_work_over_at_once(
    tmp_path: Path, joined: dict[str, Any]
) -> None:
    async with cluster(tmp_path, **joined) as (one, two):
        here, there = await one.connect(conversation_id="c1"), await two.connect(conversation_id="c1")
        _, gate = await slow_turn(here)
        await one.application.drain.run(0)
        assert (await here.closed())[0] == 4001
        await gate.reached(2, timeout=10)  # a lease would have run for longer
        gate.open()
        record = await two.application.engine.read("t1", "c1")
        assert record is not None
        while not any(
            e["type"] == "turn.completed"
            for f in there.seen if f["type"] == "events" for e in f["events"]
        ):  # fmt: skip
            await there.until("events")
        assert two.application.engine.stats.effects == 1


async def test_an_instance_that_goes_away_refuses_new_commands_for_the_moment(tmp_path: Path) -> None:
    async with cluster(tmp_path, **SETTINGS) as (one, two):
        here = await one.connect(conversation_id="c1")
        draining = asyncio.create_task(one.application.drain.run(2))
        await asyncio.sleep(0)
        assert (await readiness(one))[:2] == (503, "draining")
        assert (await here.closed())[0] == 4001
        await draining
        elsewhere = await two.connect(conversation_id="c1")
        assert (await elsewhere.say("c1", "hi"))["type"] == "ack"


async def test_what_one_instance_publishes_all_start(tmp_path: Path, joined: dict[str, Any]) -> None:
    async with cluster(tmp_path, **joined) as (one, two):
        there = await two.connect()
        news = 'flow: news\nsteps:\n  - {id: say, say: "New."}\n  - {id: end, end: completed}\n'
        (tmp_path / "flows" / "news.yaml").write_text(news)
        await one.application.load_flows()
        started = await there.say("c1", "hi", flow_id="news")  # which nobody has told this instance of yet
        assert (started["type"], started["status"]) == ("ack", "completed")
        changed = FLOW.replace("What is your name?", "Who are you?")
        (tmp_path / "flows" / "greet.yaml").write_text(changed)
        await one.application.load_flows()
        async with asyncio.timeout(3):  # sooner than it looks by itself
            while two.application.catalog.newest("greet").version != 2:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
        asked = await there.say("c2", "hi")
        assert asked["result"]["response"]["messages"][-1]["text"] == "Who are you?"
