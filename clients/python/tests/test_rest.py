"""What goes over REST: starting, deciding, listing; keys, retries, tokens and errors."""

import asyncio
import datetime
import itertools
import json
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import parley_client
import pytest
from http_server import Asked, HttpServer, Reply
from parley_client import AsyncParley, Pending, events
from virtual_clock import VirtualClock

Connect = Callable[..., AsyncParley]
DONE = Reply(202, {"command_id": "k", "status": "running", "execution_id": "x1", "conversation_id": "c1"})


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def client(server: HttpServer) -> Connect:
    """Makes clients whose pauses are none, and which nobody has connected."""

    def make(**options: Any) -> AsyncParley:
        options = {
            "token": "secret-token", "clock": VirtualClock(), "random": lambda: 0.0,
            "connect_options": {"proxy": None}, **options,
        }  # fmt: skip
        return AsyncParley(options.pop("url", server.url), **options)

    return make


def refusal(status: int, code: str, **more: Any) -> Reply:
    body = {"code": code, "message": "no", "temporary": False, **more}
    return Reply(status, {"error": body, "request_id": "r"})


async def test_a_flow_is_started_without_a_connection(server: HttpServer, client: Connect) -> None:
    server.replies = [
        Reply(202, {"execution_id": "x1", "conversation_id": "c1", "correlation_id": "o1"}),
    ]
    started = await client().start(
        "expense", initial_context={"amount": 40}, user_id="ada", correlation_id="o1", on_busy="enqueue"
    )
    assert (started.execution_id, started.conversation_id, started.correlation_id) == ("x1", "c1", "o1")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/v1/flows/expense/start")
    assert asked.body == {
        "initial_context": {"amount": 40}, "user_id": "ada", "correlation_id": "o1", "on_busy": "enqueue"
    }  # fmt: skip
    assert asked.headers["authorization"] == "Bearer secret-token"
    assert asked.headers["content-type"] == "application/json"


async def test_a_start_that_waits_in_line_has_no_id_yet(server: HttpServer, client: Connect) -> None:
    server.replies = [Reply(202, {"execution_id": None, "conversation_id": "c1", "correlation_id": "o1"})]
    started = await client().start("expense", conversation_id="c1", on_busy="enqueue")
    assert started.execution_id is None
    with pytest.raises(parley_client.WrongState, match="c1"):
        await started.get()


async def test_a_turn_that_has_ended_comes_with_the_receipt(server: HttpServer, client: Connect) -> None:
    result = {"current_state": "idle", "response": {"messages": [{"message_id": "m", "text": "Paid."}]}}
    server.replies = [
        Reply(200, {"command_id": "k", "status": "completed", "conversation_id": "c1", "result": result}),
        DONE,
    ]
    run = client().execution("x1")
    receipt = await run.accept("p1")
    assert receipt.turn is not None
    assert (receipt.turn.text, receipt.turn.success) == ("Paid.", True)
    assert (await run.accept("p1")).turn is None


async def test_every_call_of_an_execution_travels_as_its_request(server: HttpServer, client: Connect) -> None:
    server.replies = [DONE] * 8
    run = client().execution("x1")
    shown = Pending("p1", "acceptance", digest="d")
    await run.accept(shown, comment="ok", edits={"amount": 30})
    await run.reject("p2", comment="no")
    await run.answer("p3", {"a-b": 1}, part="morning")
    await run.pause("lunch", deadline_ms=60_000)
    await run.resume("back")
    await run.cancel("enough")
    await run.retry()
    receipt = await run.signal("paid", {"amount": 1})
    assert (receipt.execution_id, receipt.status, receipt.duplicate) == ("x1", "running", False)
    assert [(asked.path.removeprefix("/v1/executions/x1/"), asked.body) for asked in server.asked] == [
        (
            "acceptance",
            {"pending_id": "p1", "accepted": True, "comment": "ok", "edits": {"amount": 30}, "digest": "d"},
        ),
        ("acceptance", {"pending_id": "p2", "accepted": False, "comment": "no"}),
        ("clarification", {"pending_id": "p3", "answers": {"a-b": 1, "part": "morning"}}),
        ("pause", {"reason": "lunch", "deadline_ms": 60_000}),
        ("resume", {"comment": "back"}),
        ("cancel", {"reason": "enough"}),
        ("retry", {}),
        ("signal", {"name": "paid", "payload": {"amount": 1}}),
    ]  # fmt: skip
    keys = [asked.headers["idempotency-key"] for asked in server.asked]
    assert len(set(keys)) == 8


async def test_an_execution_tells_where_it_stands(server: HttpServer, client: Connect) -> None:
    record = {
        "execution_id": "x1", "conversation_id": "c1", "status": "waiting_acceptance", "flow_id": "expense",
        "correlation_id": "o1",
        "pending": [
            {"pending_id": "p1", "kind": "acceptance", "digest": "d"},
            {"pending_id": "p2", "kind": "acceptance", "decided": {"by": "ada", "accepted": True}},
            {"pending_id": "p3", "kind": "input"},
        ],
    }  # fmt: skip
    server.replies = [Reply(200, record), Reply(200, {**record, "status": "completed"})]
    run = client().execution("x1")
    assert [pending.pending_id for pending in await run.pending()] == ["p1"]
    assert (run.conversation_id, run.correlation_id) == ("c1", "o1")
    found = await run.get()
    assert (found.status, found.ended, found.flow_id) == ("completed", True, "expense")
    assert "idempotency-key" not in server.asked[0].headers


async def test_lists_are_read_page_after_page(server: HttpServer, client: Connect) -> None:
    def page(asked: Asked) -> Reply:
        last = "cursor=" in asked.path
        found = [{"execution_id": "x3"}] if last else [{"execution_id": "x1"}, {"execution_id": "x2"}]
        return Reply(200, {"executions": found, "cursor": None if last else "a b"})

    server.replies = [page, page]
    found = [run.execution_id async for run in client().executions(status="failed", page_size=2)]
    assert found == ["x1", "x2", "x3"]
    assert [asked.path for asked in server.asked] == [
        "/v1/executions?status=failed&limit=2",
        "/v1/executions?status=failed&limit=2&cursor=a+b",
    ]


async def test_the_inbox_holds_what_waits_for_people(server: HttpServer, client: Connect) -> None:
    pending = {"pending_id": "p1", "kind": "acceptance", "title": "Pay?"}
    server.replies = [
        Reply(
            200,
            {
                "items": [
                    {"kind": "acceptance", "execution_id": "x1", "conversation_id": "c1", "pending": pending},
                    {"kind": "handoff", "execution_id": "x2", "conversation_id": "c2", "pending": None},
                ],
                "cursor": None,
            },
        )
    ]
    first, second = [item async for item in client().inbox()]
    assert first.pending is not None
    assert (first.kind, first.execution_id, first.pending.title) == ("acceptance", "x1", "Pay?")
    assert (second.kind, second.pending) == ("handoff", None)


# --- trouble ---------------------------------------------------------------------------------------


async def test_what_is_temporary_is_tried_again_with_the_same_key(
    server: HttpServer, client: Connect
) -> None:
    server.replies = [
        refusal(503, "overloaded", temporary=True), Reply(0, None), Reply(502, b"<html>"), DONE
    ]  # fmt: skip
    await client().execution("x1").retry()
    assert len(server.asked) == 4
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1


async def test_a_pause_is_as_long_as_the_server_asks_for(server: HttpServer, client: Connect) -> None:
    clock = VirtualClock()
    waited: list[float] = []

    def then(delay: float, callback: Callable[[], None]) -> Any:
        waited.append(delay)
        return VirtualClock.call_later(clock, 0, callback)

    clock.call_later = then  # type: ignore[method-assign]
    server.replies = [refusal(429, "rate_limited", temporary=True, retry_after_ms=1500), DONE]
    await client(clock=clock).execution("x1").retry()
    assert waited == [1.5]


async def test_what_stays_away_is_told_in_the_end(server: HttpServer, client: Connect) -> None:
    server.replies = [refusal(503, "store_unavailable", temporary=True)] * 6
    with pytest.raises(parley_client.StoreUnavailable):
        await client().execution("x1").get()
    assert len(server.asked) == 6


async def test_a_refusal_is_final_and_typed(server: HttpServer, client: Connect) -> None:
    decided = {"by": "ada", "accepted": True}
    server.replies = [refusal(409, "pending_resolved", details={"decided": decided})]
    with pytest.raises(parley_client.PendingResolved) as late:
        await client().execution("x1").accept("p1")
    assert late.value.decided == decided
    assert len(server.asked) == 1


async def test_nobody_there_is_a_lost_connection(client: Connect) -> None:
    with pytest.raises(parley_client.ConnectionLost) as lost:
        await client(url="http://127.0.0.1:9").execution("x1").get()
    assert lost.value.__cause__ is not None


async def test_another_program_at_the_address_is_told(server: HttpServer, client: Connect) -> None:
    server.replies = [Reply(404, b"<html>not here</html>")]
    with pytest.raises(parley_client.Refused, match="not as a Parley server does") as wrong:
        await client().execution("x1").get()
    assert wrong.value.code == "http_404"


async def test_a_redirect_gets_no_token(server: HttpServer, client: Connect) -> None:
    server.replies = [Reply(302, b"", {"Location": server.url + "/elsewhere"})]
    with pytest.raises(parley_client.Refused):
        await client().execution("x1").get()
    assert len(server.asked) == 1


async def test_a_token_that_is_over_is_replaced_once(server: HttpServer, client: Connect) -> None:
    numbers = itertools.count(1)
    server.replies = [
        DONE, refusal(401, "token_expired"), DONE, refusal(401, "token_expired"), refusal(401, "unauthorized")
    ]  # fmt: skip
    run = client(token=lambda: f"token-{next(numbers)}").execution("x1")
    await run.retry()
    await run.retry()
    with pytest.raises(parley_client.Unauthorized):
        await run.retry()
    sent = [asked.headers["authorization"][-1] for asked in server.asked]
    assert sent == ["1", "1", "2", "2", "3"]


async def test_a_plain_token_that_is_over_is_told(server: HttpServer, client: Connect) -> None:
    server.replies = [refusal(401, "token_expired")]
    with pytest.raises(parley_client.TokenExpired):
        await client().execution("x1").get()


async def test_what_json_cannot_hold_is_refused_here(server: HttpServer, client: Connect) -> None:
    with pytest.raises(parley_client.InvalidFrame):
        await client().start("expense", initial_context={"amount": float("nan")})
    assert server.asked == []


async def test_a_callers_time_may_be_up(server: HttpServer, client: Connect) -> None:
    server.replies = [refusal(429, "rate_limited", temporary=True, retry_after_ms=20_000)]
    with pytest.raises(parley_client.Timeout):
        await client().execution("x1").accept("p1", timeout=0.2)


async def test_a_caller_who_leaves_takes_the_thread_along(server: HttpServer, client: Connect) -> None:
    asked, over = threading.Event(), threading.Event()

    def never(request: Asked) -> Reply:
        asked.set()
        over.wait(30)
        return Reply(0, None)

    server.replies = [never]
    try:
        with pytest.raises(parley_client.Timeout):
            await client().execution("x1").accept("p1", timeout=0.2)
        assert asked.is_set()
        for thread in threading.enumerate():
            if thread.name == "parley-client-call":
                await asyncio.to_thread(thread.join, 5)
                assert not thread.is_alive()
    finally:
        over.set()


async def test_lists_may_be_of_a_span_of_time(server: HttpServer, client: Connect) -> None:
    server.replies = [Reply(200, {"executions": [], "cursor": None})]
    since = datetime.datetime(2026, 1, 31, 9, tzinfo=datetime.UTC)
    assert [run async for run in client().executions(since=since, until="2026-02-01T00:00:00Z")] == []
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(server.asked[0].path).query)
    assert query["since"] == ["2026-01-31T09:00:00+00:00"]
    assert query["until"] == ["2026-02-01T00:00:00Z"]


def told(*lines: tuple[str, dict[str, Any]]) -> Reply:
    text = ": hello\n\n" + "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in lines)
    return Reply(200, text.encode(), {"Content-Type": "text/event-stream"})


async def test_the_inbox_is_told_over_reconnections(server: HttpServer, client: Connect) -> None:
    def opened(name: str) -> tuple[str, dict[str, Any]]:
        return "opened", {"kind": "acceptance", "wait_id": name, "execution_id": "x"}

    settled = ("settled", {"kind": "acceptance", "wait_id": "b", "decided": {"by": "ada"}})
    server.replies = [
        told(opened("a"), opened("b"), ("ready", {"items": 2})),
        Reply(503, b"<html>"),
        told(opened("b"), opened("c"), ("ready", {"items": 2}), settled),
        refusal(401, "token_expired"),
    ]
    found: list[tuple[str, Any]] = []

    async def read() -> None:
        async for event in client().inbox_events():
            match event:
                case events.InboxOpened():
                    found.append(("opened", event.item.wait_id))
                case events.InboxSettled():
                    found.append((event.item.wait_id, event.decided))
                case events.InboxReady():
                    found.append(("ready", event.items))

    with pytest.raises(parley_client.TokenExpired):
        await read()
    assert found == [
        ("opened", "a"), ("opened", "b"), ("ready", 2), ("opened", "c"), ("a", None), ("b", {"by": "ada"}),
    ]  # fmt: skip
    assert server.asked[0].headers["accept"] == "text/event-stream"


async def test_the_inbox_is_told_for_longer_than_a_token_lasts(server: HttpServer, client: Connect) -> None:
    server.replies = [
        told(("ready", {"items": 0})),
        refusal(401, "token_expired"),
        told(
            ("opened", {"kind": "acceptance", "wait_id": "a", "execution_id": "x"}), ("ready", {"items": 1})
        ),
        refusal(401, "token_expired"),
        refusal(401, "token_expired"),
    ]
    numbers = itertools.count(1)
    inbox = client(token=lambda: f"token-{next(numbers)}").inbox_events()
    assert [await anext(inbox), (await anext(inbox)).item.wait_id] == [events.InboxReady(items=0), "a"]  # type: ignore[union-attr]
    with pytest.raises(parley_client.TokenExpired):  # a fresh one that is refused too is asked for once
        await anext(inbox)
    used = [asked.headers["authorization"].removeprefix("Bearer token-") for asked in server.asked]
    assert used == ["1", "1", "2", "2", "3"]


async def test_an_inbox_that_something_garbles_is_asked_for_again(
    server: HttpServer, client: Connect
) -> None:
    garbled = Reply(200, b"event: opened\ndata: <html>\n\n", {"Content-Type": "text/event-stream"})
    server.replies = [garbled, told(("ready", {"items": 0}))]
    assert await anext(client().inbox_events()) == events.InboxReady(items=0)


def test_the_address_is_beside_the_sockets() -> None:
    context = ssl.create_default_context()
    for given, at in [
        ("http://h:1", "http://h:1/v1"), ("wss://h/parley/v1/ws", "https://h/parley/v1"),
        ("https://h/parley/", "https://h/parley/v1"),
    ]:  # fmt: skip
        parley = AsyncParley(given, connect_options={"ssl": context, "proxy": "http://proxy:3128"})
        assert parley.rest_url == at
