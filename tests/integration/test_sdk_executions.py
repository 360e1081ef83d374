"""The Python SDK over REST against a real server: starting, steering and listing runs of flows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import parley_client
import pytest
from parley_client import AsyncExecution, AsyncParley, Execution, Parley, events

from tests.support.server import RunningServer, running_server, token

PACK = """\
flow: pack
slots:
  item: {type: text}
variables: {paid: null}
steps:
  - id: wait
    wait: {event: paid}
    save: variables.paid
  - {id: say, say: "Packing ${slots.item}."}
  - {id: done, end: completed, output: {item: "${slots.item}"}}
"""
HELP = """\
flow: help
steps:
  - {id: person, handoff: desk}
  - {id: done, end: completed}
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path, flows={"pack": PACK, "help": HELP}) as server:
        yield server


def client(server: RunningServer, user: str = "shop", role: str = "service") -> AsyncParley:
    return AsyncParley(server.url, token=token(user, role=role), random=lambda: 0.0)


async def packed(server: RunningServer, item: str = "a book") -> AsyncExecution:
    return await client(server).start("pack", initial_context={"item": item})


async def until(run: AsyncExecution, status: str) -> Execution:
    """Watch an execution's conversation until it has this status."""
    found = await run.get()
    async with asyncio.timeout(10):
        while found.status != status:
            await asyncio.sleep(0)
            found = await run.get()
    return found


async def test_a_run_is_started_told_and_ends(server: RunningServer) -> None:
    run = await client(server).start(
        "pack", initial_context={"item": "a book"}, project_id="p", correlation_id="order-7", request_id="r1"
    )
    found = await until(run, "waiting_event")
    assert (found.flow_id, found.project_id, found.user_id) == ("pack", "p", None)
    assert (run.correlation_id, found.correlation_id, found.request_id) == ("order-7", "order-7", "r1")
    receipt = await run.signal("paid", {"amount": 12})
    assert (receipt.execution_id, receipt.conversation_id) == (run.execution_id, run.conversation_id)
    found = await until(run, "completed")
    assert (found.output, found.ended) == ({"item": "a book"}, True)


async def test_starting_again_with_the_same_key_gives_the_same_run(server: RunningServer) -> None:
    parley = client(server)
    runs = [
        await parley.start("pack", initial_context={"item": "a"}, idempotency_key="order-0007") for _ in "ab"
    ]
    assert runs[0].execution_id == runs[1].execution_id
    assert runs[0].conversation_id == runs[1].conversation_id
    with pytest.raises(parley_client.IdempotencyConflict):
        await parley.start("pack", initial_context={"item": "b"}, idempotency_key="order-0007")


async def test_a_conversation_that_is_busy_says_so(server: RunningServer) -> None:
    run = await packed(server)
    with pytest.raises(parley_client.ConversationBusy):
        await client(server).start("pack", conversation_id=run.conversation_id, initial_context={"item": "x"})


async def test_what_is_not_there_is_told(server: RunningServer) -> None:
    parley = client(server)
    with pytest.raises(parley_client.FlowNotFound):
        await parley.start("unpack")
    with pytest.raises(parley_client.ExecutionNotFound):
        await parley.execution("none").get()
    with pytest.raises(parley_client.WrongState):
        await (await packed(server)).resume()
    with pytest.raises(parley_client.PendingNotFound):
        await (await packed(server)).accept("p1")


async def test_a_run_is_paused_resumed_and_cancelled(server: RunningServer) -> None:
    run = await packed(server)
    await run.pause("lunch", deadline_ms=60_000)
    assert (await run.get()).status == "paused"
    with pytest.raises(parley_client.WrongState):
        await run.pause()
    await run.resume("back")
    assert (await run.get()).status == "waiting_event"
    receipt = await run.cancel("enough")
    assert receipt.turn is not None
    assert (await run.get()).status == "cancelled"
    with pytest.raises(parley_client.WrongState):
        await run.cancel()


async def test_runs_are_listed_page_after_page(server: RunningServer) -> None:
    started = {(await packed(server, f"book {number}")).execution_id for number in range(5)}
    other = await client(server).start("help")
    await until(other, "paused")
    parley = client(server, "olga", "operator")
    assert {run.execution_id async for run in parley.executions(page_size=2)} == {
        *started,
        other.execution_id,
    }
    assert [run.execution_id async for run in parley.executions(status="paused")] == [other.execution_id]
    assert {run.flow_id async for run in parley.executions(flow_id="pack")} == {"pack"}
    assert [run async for run in client(server, "ada", "user").executions()] == []


async def test_a_hand_off_is_in_the_inbox_until_it_is_taken_up(server: RunningServer) -> None:
    run = await client(server).start("help")
    await until(run, "paused")
    parley = client(server, "olga", "operator")
    (item,) = [item async for item in parley.inbox()]
    assert (item.kind, item.execution_id, item.flow_id) == ("handoff", run.execution_id, "help")
    assert item.pending is None
    await parley.execution(item.execution_id).resume()
    assert [item async for item in parley.inbox()] == []
    assert [item async for item in client(server, "ada", "user").inbox()] == []


async def test_the_inbox_tells_what_comes_and_what_is_settled(server: RunningServer) -> None:
    parley = client(server, "olga", "operator")
    async with asyncio.timeout(20):
        told = parley.inbox_events()
        assert await anext(told) == events.InboxReady(items=0)
        run = await client(server).start("help")
        opened = await anext(told)
        assert isinstance(opened, events.InboxOpened)
        assert opened.item.execution_id == run.execution_id
        await parley.execution(opened.item.execution_id).resume()
        assert await anext(told) == events.InboxSettled(item=opened.item, decided=None)
        await told.aclose()  # type: ignore[attr-defined] # an async generator
        nobodys = client(server, "ada", "user").inbox_events()
        assert await anext(nobodys) == events.InboxReady(items=0)
        await nobodys.aclose()  # type: ignore[attr-defined] # an async generator


async def test_the_synchronous_client_reads_the_inbox_too(server: RunningServer) -> None:
    def read() -> list[str]:
        with Parley(server.url, token("shop", role="service")) as parley:
            found = []
            for event in parley.inbox_events():
                found.append(event.type)
                if event.type == "ready":
                    break
            started = parley.start("help")
            assert started.get().flow_id == "help"
            assert [run.flow_id for run in parley.executions()] == ["help"]
        return found

    assert await asyncio.to_thread(read) == ["ready"]


async def test_who_watches_the_conversation_sees_what_rest_has_done(server: RunningServer) -> None:
    run = await packed(server)
    async with client(server) as parley, parley.conversation(run.conversation_id) as chat:
        heard = chat.events()
        await run.signal("paid")
        async with asyncio.timeout(10):
            async for event in heard:
                if isinstance(event, events.ExecutionCompleted):
                    break
        assert [message.text for message in chat.messages] == ["Packing a book."]
