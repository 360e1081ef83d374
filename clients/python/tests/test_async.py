"""``AsyncParley`` against a real socket: what callers see while the network misbehaves."""

import asyncio
import contextlib
import http
from collections.abc import AsyncIterator, Callable
from typing import Any

import parley_client
import pytest
from parley_client import AsyncParley, ConnectionEvent, Turn
from parley_client import events as ev
from scripted_server import Connection, Frame, ScriptedServer, ack, error, events, until
from virtual_clock import VirtualClock
from websockets.datastructures import Headers
from websockets.http11 import Response

CHAT = "c1"
Connect = Callable[..., AsyncParley]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def client(server: ScriptedServer, clock: VirtualClock) -> Connect:
    """Makes clients that reconnect without a pause, on a clock that stands still."""

    def make(**options: Any) -> AsyncParley:
        options = {"token": "secret-token", "clock": clock, "random": lambda: 0.0, **options}
        return AsyncParley(options.pop("url", server.url), **options)

    return make


@pytest.fixture(autouse=True)
async def _no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - before if task.get_name().startswith("parley-client")]
    assert left == []


# --- talking ---------------------------------------------------------------------------------------


async def test_ask_returns_the_turn(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley:
        turn = await parley.conversation(CHAT).ask("hi")
    assert turn.text == "echo hi"
    assert turn.state == "ask"
    assert turn.slots == {"said": "hi"}
    assert turn.success
    assert not turn.duplicate


async def test_messages_are_there_when_ask_returns(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley:
        chat = parley.conversation(CHAT)
        await chat.ask("one")
        assert [message.text for message in chat.messages] == ["one", "echo one"]
        await chat.ask("two")
        assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
        assert chat.snapshot.state is not None
        assert chat.snapshot.state.current_state == "ask"
        assert chat.cursor == ("e1", server.chats[CHAT].offset)


async def test_send_yields_the_events_of_its_turn_and_ends(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley:
        stream = parley.conversation(CHAT).send("hi")
        kinds = [event.type async for event in stream]
    assert kinds == ["conversation.created", "message.received", "message.completed", "turn.completed"]
    assert stream.turn is not None
    assert stream.turn.command_id == stream.command_id
    assert stream.accepted


async def test_a_conversation_without_id_gets_128_random_bits(
    server: ScriptedServer, client: Connect
) -> None:
    async with client() as parley:
        one, other = parley.conversation(), parley.conversation()
        assert one.conversation_id != other.conversation_id
        assert len(one.conversation_id) == 22
        assert parley.conversation(one.conversation_id) is one


async def test_a_button_is_sent_as_its_payload(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley:
        await parley.conversation(CHAT, flow_id="book").ask(
            payload="yes", metadata={"a": [1]}, on_busy="interrupt"
        )
    frame = server.frames("process")[0]
    assert frame["content"] == {"type": "button", "payload": "yes", "metadata": {"a": [1]}}
    assert (frame["flow_id"], frame["on_busy"]) == ("book", "interrupt")


async def test_every_command_travels_as_its_frame(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley:
        chat = parley.conversation(CHAT)
        await chat.accept("p1", comment="ok", edits={"date": "2026-01-02"}, digest="d")
        await chat.reject("p2")
        await chat.answer("p3", {"a-b": 1}, part="morning")
        await chat.reset("over")
        await chat.cancel("x9", "enough")
    accept, reject = server.frames("acceptance")
    assert (accept["accepted"], accept["comment"], accept["edits"], accept["digest"]) == (
        True,
        "ok",
        {"date": "2026-01-02"},
        "d",
    )
    assert (reject["pending_id"], reject["accepted"]) == ("p2", False)
    assert server.frames("clarification")[0]["answers"] == {"a-b": 1, "part": "morning"}
    assert server.frames("reset")[0]["reason"] == "over"
    assert (server.frames("cancel")[0]["execution_id"], server.frames("cancel")[0]["reason"]) == (
        "x9",
        "enough",
    )


async def test_open_requests_are_known_without_asking(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley, parley.conversation(CHAT) as chat:
        await chat.ask("hi")
        assert chat.pending() == ()
        await server.ask_for(CHAT, "acceptance", pending_id="p1", digest="d1")
        await server.ask_for(CHAT, "clarification", pending_id="p2")
        await until(lambda: len(chat.pending()) == 2)
        assert [pending.pending_id for pending in chat.pending("acceptance")] == ["p1"]
        assert [pending.pending_id for pending in chat.pending("clarification")] == ["p2"]
        (shown,) = chat.pending("acceptance")
        await chat.accept(shown)
        await chat.answer(chat.pending("clarification")[0], part="morning")
    (accept,), (answer,) = server.frames("acceptance"), server.frames("clarification")
    assert (accept["pending_id"], accept["digest"]) == ("p1", "d1")
    assert (answer["pending_id"], answer["answers"]) == ("p2", {"part": "morning"})


async def test_a_decision_that_came_late_says_who_was_faster(server: ScriptedServer, client: Connect) -> None:
    decided = {"by": "ada", "accepted": False, "comment": "too dear"}

    async def refuse(connection: Connection, frame: Frame) -> bool:
        await connection.send(error(frame["id"], "pending_resolved", details={"decided": decided}))
        return True

    server.on("acceptance", refuse)
    async with client() as parley:
        with pytest.raises(parley_client.PendingResolved) as late:
            await parley.conversation(CHAT).accept("p1")
    assert late.value.decided == decided


async def test_a_failed_turn_is_an_exception_for_ask_and_an_event_for_send(
    server: ScriptedServer, client: Connect
) -> None:
    async with client() as parley:
        chat = parley.conversation(CHAT)
        with pytest.raises(parley_client.TurnFailed) as failed:
            await chat.ask("fail")
        assert isinstance(failed.value.error, parley_client.StepFailed)
        assert failed.value.code == "step_failed"
        assert failed.value.turn.text == "echo fail"
        last = [event async for event in chat.send("fail")][-1]
        assert isinstance(last, ev.TurnFailed)
        assert last.error.code == "step_failed"


async def test_a_refusal_is_the_typed_error_of_its_code(server: ScriptedServer, client: Connect) -> None:
    async def refuse(connection: Connection, frame: Frame) -> bool:
        await connection.send(error(frame["id"], "permission_denied", field="user_id", suggestion="your own"))
        return True

    server.on("process", refuse)
    async with client() as parley:
        with pytest.raises(parley_client.PermissionDenied) as refused:
            await parley.conversation(CHAT).ask("hi")
    assert (refused.value.field, refused.value.suggestion) == ("user_id", "your own")
    assert not refused.value.temporary


async def test_a_code_of_the_future_is_still_an_error(server: ScriptedServer, client: Connect) -> None:
    async def refuse(connection: Connection, frame: Frame) -> bool:
        await connection.send(error(frame["id"], "from_the_future"))
        return True

    server.on("process", refuse)
    async with client() as parley:
        with pytest.raises(parley_client.Refused) as refused:
            await parley.conversation(CHAT).ask("hi")
    assert refused.value.code == "from_the_future"


async def test_a_temporary_error_is_tried_again_with_the_same_key(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    async def refuse(connection: Connection, frame: Frame) -> bool:
        await connection.send(error(frame["id"], "store_unavailable", temporary=True, retry_after_ms=400))
        return True

    server.on("process", refuse)
    async with client() as parley:
        asking = asyncio.create_task(parley.conversation(CHAT).ask("hi"))
        await until(lambda: len(server.frames("process")) == 1 and 0.4 in _rounded(clock))
        clock.advance(0.4)
        turn = await asking
    first, second = server.frames("process")
    assert first["idempotency_key"] == second["idempotency_key"] == turn.command_id
    assert first["id"] != second["id"]


async def test_a_temporary_error_ends_after_six_more_tries(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    async def refuse(connection: Connection, frame: Frame) -> bool:
        await connection.send(error(frame["id"], "overloaded", temporary=True))
        return True

    for _ in range(10):
        server.on("process", refuse)
    async with client() as parley:
        asking = asyncio.create_task(parley.conversation(CHAT).ask("hi"))
        while not asking.done():
            await asyncio.sleep(0.002)
            if min(clock.waiting) < 9:
                clock.advance(min(clock.waiting))
        with pytest.raises(parley_client.Overloaded):
            await asking
    assert len(server.frames("process")) == 7


async def test_commands_leave_one_by_one_in_the_order_of_the_calls(
    server: ScriptedServer, client: Connect
) -> None:
    held: list[tuple[Connection, Frame]] = []

    async def hold(connection: Connection, frame: Frame) -> bool:
        held.append((connection, frame))
        return True

    server.on("process", hold)
    async with client() as parley:
        chat = parley.conversation(CHAT)
        asking = [asyncio.create_task(chat.ask(str(number))) for number in range(20)]
        await until(lambda: bool(held))
        assert len(server.frames("process")) == 1
        await server.dispatch(*held[0])
        await asyncio.gather(*asking)
    assert server.chats[CHAT].processed == [str(number) for number in range(20)]


async def test_conversations_do_not_wait_for_each_other(server: ScriptedServer, client: Connect) -> None:
    async def ignore(connection: Connection, frame: Frame) -> bool:
        return True

    server.on("process", ignore)
    async with client() as parley:
        stuck = asyncio.create_task(parley.conversation("slow").ask("hi"))
        await until(lambda: len(server.frames("process")) == 1)
        assert (await parley.conversation("fast").ask("hi")).text == "echo hi"
        stuck.cancel()


async def test_state_and_history_are_answered(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley:
        chat = parley.conversation(CHAT)
        for number in range(3):
            await chat.ask(str(number))
        state = await chat.state()
        page = await chat.history(limit=4)
        older = await chat.history(page.before, limit=4)
    assert (state.status, state.flow_id, state.message_count) == ("waiting_input", "echo", 6)
    assert [message.text for message in (*older.messages, *page.messages)] == [
        "0", "echo 0", "1", "echo 1", "2", "echo 2",
    ]  # fmt: skip
    assert older.before is None


async def test_the_state_of_nothing_is_not_found(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley:
        with pytest.raises(parley_client.ConversationNotFound):
            await parley.conversation("nobody").state()
    assert server.frames("subscribe") == []


async def test_entering_a_conversation_loads_it(server: ScriptedServer, client: Connect) -> None:
    await server.say(CHAT, "before")
    async with client() as parley, parley.conversation(CHAT) as chat:
        assert [message.text for message in chat.messages] == ["before", "echo before"]
        assert chat.snapshot.state is not None
        assert chat.snapshot.state.flow_id == "echo"


async def test_events_brings_what_other_devices_do(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley, parley.conversation(CHAT) as chat:
        stream = chat.events()
        await server.say(CHAT, "from the phone")
        kinds = [(await anext(stream)).type for _ in range(4)]
        assert kinds == ["conversation.created", "message.received", "message.completed", "turn.completed"]


async def test_typing_reaches_the_others(server: ScriptedServer, client: Connect) -> None:
    async with (
        client() as one,
        client() as other,
        one.conversation(CHAT) as mine,
        other.conversation(CHAT) as theirs,
    ):
        stream = theirs.events()
        mine.typing(True)
        event = await anext(stream)
        assert isinstance(event, ev.TypingNotice)
        assert event.typing


async def test_pieces_of_a_message_come_to_whoever_asked(server: ScriptedServer, client: Connect) -> None:
    async def stream_first(connection: Connection, frame: Frame) -> bool:
        await connection.send(
            ack(
                frame,
                command_id=frame["idempotency_key"],
                status="running",
                execution_id="x1",
                epoch="e1",
                offset=0,
            )
        )
        for index, piece in enumerate(["Hel", "lo"]):
            delta = {"conversation_id": CHAT, "execution_id": "x1", "message_id": "m1", "index": index}
            await connection.send({"type": "message.delta", **delta, "delta": piece})
        await until(lambda: chat.snapshot.partials == {"m1": "Hello"})
        first = server.apply(frame)
        await server.publish(CHAT, first)
        return True

    server.on("process", stream_first)
    async with client() as parley:
        chat = parley.conversation(CHAT)
        found = [event async for event in chat.send("hi")]
    assert [event.delta for event in found if isinstance(event, ev.MessageDelta)] == ["Hel", "lo"]
    assert isinstance(found[-1], ev.TurnCompleted)


async def test_a_caller_who_may_speak_and_not_see_gets_what_the_ack_tells(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    """Whoever waited for a conversation that another user then owns is detached in silence."""
    server.wire = lambda connection, frame: [] if frame["type"] == "events" else [frame]
    async with client() as parley:
        chat = parley.conversation(CHAT, user_id="u7")
        asking = asyncio.create_task(chat.ask("hi"))
        await until(lambda: 1.0 in _rounded(clock))
        assert not asking.done()
        clock.advance(1)
        assert (await asking).text == "echo hi"
        assert (await chat.ask("again")).text == "echo again"  # now it is known, and nothing is waited for
        (end,) = [event async for event in chat.send("more")]
        assert isinstance(end, ev.TurnCompleted)


# --- losing the connection -------------------------------------------------------------------------


async def test_a_command_that_never_arrived_is_sent_again(server: ScriptedServer, client: Connect) -> None:
    async def cut(connection: Connection, frame: Frame) -> bool:
        connection.cut()
        return True

    server.on("process", cut)
    async with client() as parley:
        turn = await parley.conversation(CHAT).ask("hi")
    assert not turn.duplicate
    assert server.chats[CHAT].processed == ["hi"]
    assert len({frame["idempotency_key"] for frame in server.frames("process")}) == 1


async def test_a_command_whose_ack_was_lost_takes_effect_once(
    server: ScriptedServer, client: Connect
) -> None:
    async def commit_and_cut(connection: Connection, frame: Frame) -> bool:
        server.apply(frame)
        connection.cut()
        return True

    server.on("process", commit_and_cut)
    async with client() as parley:
        chat = parley.conversation(CHAT)
        await chat.ready()
        stream = chat.send("hi")
        found = [event async for event in stream]
        assert [message.text for message in chat.messages] == ["hi", "echo hi"]
    assert server.chats[CHAT].processed == ["hi"]
    assert found[-1].type == "turn.completed"
    assert stream.duplicate


async def test_an_accepted_turn_is_followed_over_a_lost_connection(
    server: ScriptedServer, client: Connect
) -> None:
    async def accept_and_cut(connection: Connection, frame: Frame) -> bool:
        await connection.send(
            ack(
                frame,
                command_id=frame["idempotency_key"],
                status="running",
                execution_id="x1",
                epoch="e1",
                offset=0,
            )
        )
        server.apply(frame)
        connection.cut()
        return True

    await server.say(CHAT, "before")
    server.on("process", accept_and_cut)
    async with client() as parley, parley.conversation(CHAT) as chat:
        assert (await chat.ask("hi")).text == "echo hi"
    assert len(server.frames("process")) == 1


async def test_a_turn_that_a_snapshot_skipped_is_asked_for(server: ScriptedServer, client: Connect) -> None:
    async def accept_and_cut(connection: Connection, frame: Frame) -> bool:
        await connection.send(
            ack(
                frame,
                command_id=frame["idempotency_key"],
                status="running",
                execution_id="x1",
                epoch="e1",
                offset=0,
            )
        )
        server.apply(frame)
        server.replayable = 0
        connection.cut()
        return True

    await server.say(CHAT, "before")
    server.on("process", accept_and_cut)
    async with client() as parley, parley.conversation(CHAT) as chat:
        stream = chat.send("hi")
        found = [event async for event in stream]
        assert [message.text for message in chat.messages][-1] == "echo hi"
    assert [event.type for event in found] == ["snapshot", "turn.completed"]
    assert isinstance(found[-1], ev.TurnCompleted)
    assert found[-1].offset is None
    assert server.chats[CHAT].processed == ["before", "hi"]


async def test_what_was_missed_is_handed_out_once_and_in_order(
    server: ScriptedServer, client: Connect
) -> None:
    await server.say(CHAT, "0")
    async with client() as parley, parley.conversation(CHAT) as chat:
        stream = chat.events()
        for number in range(1, 8):
            server.cut()
            await server.say(CHAT, str(number))
        await until(lambda: len(chat.messages) == 16)
        await chat.ask("end")
        offsets: list[int] = []
        while not offsets or offsets[-1] < server.chats[CHAT].offset:
            event = await anext(stream)
            assert isinstance(event, ev.Event)
            assert event.offset is not None
            offsets.append(event.offset)
    assert offsets == list(range(5, server.chats[CHAT].offset + 1))


async def test_frames_that_the_network_drops_and_doubles_change_nothing(
    server: ScriptedServer, client: Connect
) -> None:
    turn_of_events = 0

    def mangle(connection: Connection, frame: Frame) -> list[Frame]:
        nonlocal turn_of_events
        if frame["type"] != "events":
            return [frame]
        turn_of_events += 1
        return [[frame, frame], [], [frame]][turn_of_events % 3]

    await server.say(CHAT, "before")
    server.wire = mangle
    async with client() as parley, parley.conversation(CHAT) as chat:
        stream = chat.events()
        first = chat.cursor[1] + 1
        for number in range(9):
            await server.say(CHAT, str(number))
        while chat.cursor[1] != server.chats[CHAT].offset:
            await server.ping()
            await asyncio.sleep(0.005)
        expected = list(range(first, server.chats[CHAT].offset + 1))
        assert [getattr(await anext(stream), "offset", None) for _ in expected] == expected


async def test_a_frame_cut_in_its_middle_is_lost_whole(server: ScriptedServer, client: Connect) -> None:
    async def half(connection: Connection, frame: Frame) -> bool:
        first = server.apply(frame)
        whole = events(CHAT, server.chats[CHAT], first, server.chats[CHAT].offset)
        connection.socket.protocol.send_text(str(whole).encode())
        data = b"".join(connection.socket.protocol.data_to_send())
        connection.socket.transport.write(data[: len(data) // 2])
        connection.socket.transport.close()
        return True

    server.on("process", half)
    async with client() as parley, parley.conversation(CHAT) as chat:
        assert (await chat.ask("hi")).text == "echo hi"
        assert [message.text for message in chat.messages] == ["hi", "echo hi"]
    assert server.chats[CHAT].processed == ["hi"]


async def test_a_half_open_connection_is_given_up_after_ping_interval_and_ten_seconds(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    async with client() as parley, parley.conversation(CHAT) as chat:
        server.connections[0].silent = True
        asking = asyncio.create_task(chat.ask("hi"))
        await until(lambda: len(server.frames("process")) == 1)
        clock.advance(34.9)
        await asyncio.sleep(0.01)
        assert len(server.connections) == 1
        clock.advance(0.2)
        assert (await asking).text == "echo hi"
    assert len(server.connections) == 2
    assert server.chats[CHAT].processed == ["hi"]


async def test_a_lost_tail_is_found_by_the_ping(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley, parley.conversation(CHAT) as chat:
        server.wire = lambda connection, frame: [] if frame["type"] == "events" else [frame]
        await server.say(CHAT, "lost")
        server.wire = lambda connection, frame: [frame]
        await server.ping()
        await until(lambda: len(chat.messages) == 2)
    assert len(server.frames("pong")) == 1
    assert server.frames("subscribe")[-1]["resume"] == {"epoch": None, "offset": 0}


async def test_what_is_no_frame_ends_the_connection_and_nothing_else(
    server: ScriptedServer, client: Connect
) -> None:
    async with client() as parley, parley.conversation(CHAT) as chat:
        for nonsense in ("{", "[]", '{"type":"events","conversation_id":"c1"}'):
            connected = len(server.connections)
            await server.connections[-1].socket.send(nonsense)
            await longer(server.connections, connected)
        await server.connections[-1].socket.send(b"binary")
        assert (await chat.ask("hi")).text == "echo hi"


async def test_requests_are_asked_again_on_the_next_connection(
    server: ScriptedServer, client: Connect
) -> None:
    async def cut(connection: Connection, frame: Frame) -> bool:
        connection.cut()
        return True

    await server.say(CHAT, "hi")
    server.on("state", cut)
    async with client() as parley:
        assert (await parley.conversation(CHAT).state()).message_count == 2
    assert len(server.frames("state")) == 2


async def test_a_deleted_conversation_is_told_to_all_who_wait(
    server: ScriptedServer, client: Connect
) -> None:
    async def delete(connection: Connection, frame: Frame) -> bool:
        await connection.send(
            {"type": "unsubscribed", "conversation_id": CHAT, "code": "conversation_not_found"}
        )
        return True

    await server.say(CHAT, "hi")
    server.on("process", delete)
    async with client() as parley, parley.conversation(CHAT) as chat:
        stream = chat.events()
        with pytest.raises(parley_client.ConversationNotFound):
            await chat.ask("hi")
        found = [event async for event in stream]
        assert isinstance(found[-1], ev.SubscriptionEnded)
        assert chat.messages == ()
        assert chat.cursor == (None, 0)


async def test_a_conversation_of_somebody_else_does_not_take_the_others_along(
    server: ScriptedServer, client: Connect
) -> None:
    async def foreign(connection: Connection, frame: Frame) -> bool:
        if frame.get("conversation_id") != "theirs":
            return False
        await connection.send(error(frame["id"], "conversation_not_found"))
        if frame["type"] == "hello":
            await connection.close(4503, "conversation")
        return True

    async with client() as parley:
        theirs = parley.conversation("theirs")
        await theirs.ready()
        mine = parley.conversation("mine")
        await mine.ask("one")
        for kind in ("hello", "subscribe", "process"):
            server.on(kind, foreign)
        server.cut()
        assert (await mine.ask("two")).text == "echo two"
        with pytest.raises(parley_client.ConversationNotFound):
            await theirs.ask("hi")


async def test_an_id_that_the_server_does_not_take_does_not_take_the_others_along(
    server: ScriptedServer, client: Connect
) -> None:
    async def refused(connection: Connection, frame: Frame) -> bool:
        if frame.get("conversation_id") != "no id!":
            return False
        await connection.send(error(frame["id"], "bad_request", field="conversation_id"))
        if frame["type"] == "hello":
            await connection.close(4501, "bad_request")
        return True

    for kind in ("hello", "subscribe", "process"):
        server.on(kind, refused)
    parley = client()
    strange = parley.conversation("no id!").send("hi")
    async with parley:
        assert (await parley.conversation("mine").ask("one")).text == "echo one"
        with pytest.raises(parley_client.BadRequest, match="no"):
            await anext(strange)
        await until(lambda: parley.unacknowledged == 0)


# --- the connection itself -------------------------------------------------------------------------


def _rounded(clock: VirtualClock) -> list[float]:
    return [round(seconds, 3) for seconds in clock.waiting]


async def test_pauses_double_up_to_twenty_seconds(server: ScriptedServer, clock: VirtualClock) -> None:
    seen: list[ConnectionEvent] = []
    parley = AsyncParley(
        server.url, "t", clock=clock, random=lambda: 1.0, on_connection=seen.append, open_timeout=None
    )
    server.refuse = lambda request: Response(503, "no", Headers(), b"")
    opening = asyncio.create_task(parley.connect())
    pauses: list[float | None] = []
    for number in range(8):
        await paused(seen, number)
        pauses = pauses_of(seen)
        clock.advance(pauses[-1] or 0)
    server.refuse = lambda request: None
    await opening
    await parley.close()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 20, 20]


async def paused(seen: list[ConnectionEvent], times: int) -> None:
    """Wait for one more pause than ``times``."""
    await until(lambda: len(pauses_of(seen)) > times)


async def longer(found: list[Any], length: int) -> None:
    """Wait until there are more than ``length``."""
    await until(lambda: len(found) > length)


def pauses_of(seen: list[ConnectionEvent]) -> list[float | None]:
    return [event.retry_in for event in seen if event.state == "disconnected"]


async def test_a_good_connection_lets_pauses_begin_short_again(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    seen: list[ConnectionEvent] = []
    async with client(random=lambda: 1.0, on_connection=seen.append) as parley:
        chat = parley.conversation(CHAT)
        for _ in range(3):
            await chat.ask("hi")
            count = len(pauses_of(seen))
            server.cut()
            await paused(seen, count)
            clock.advance(0.5)
            await until(lambda: parley.connected)
    assert pauses_of(seen) == [0.5, 0.5, 0.5]


async def test_a_connection_that_only_says_welcome_is_no_progress(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    seen: list[ConnectionEvent] = []
    async with client(random=lambda: 1.0, on_connection=seen.append) as parley:
        for number in range(4):
            await until(lambda: parley.connected)
            server.cut()
            await paused(seen, number)
            clock.advance(pauses_of(seen)[-1] or 0)
    assert pauses_of(seen) == [0.5, 1, 2, 4]


async def test_a_server_that_stays_away_is_asked_less_and_less_often(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    """Whatever the connection before was good for, and however the server took its leave."""
    notice = {"type": "disconnect", "code": 4001, "reason": "shutdown", "reconnect": True}
    seen: list[ConnectionEvent] = []
    async with client(random=lambda: 1.0, on_connection=seen.append) as parley:
        await parley.conversation(CHAT).ask("hi")
        await server.connections[0].send({**notice, "reconnect_within_ms": 3000})
        server.refuse = lambda request: Response(503, "no", Headers(), b"")
        await server.connections[0].close(4001, "shutdown")
        for number in range(6):
            await paused(seen, number)
            clock.advance(pauses_of(seen)[-1] or 0)
    told = [event for event in seen if event.state == "disconnected"][:6]
    assert [event.retry_in for event in told] == [3, 1, 2, 4, 8, 16]
    assert [event.attempt for event in told] == [1, 2, 3, 4, 5, 6]
    assert [event.code for event in told] == [4001, *[1006] * 5]


async def test_a_leaving_server_spreads_the_return(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    seen: list[ConnectionEvent] = []
    async with client(random=lambda: 0.5, on_connection=seen.append) as parley:
        await parley.conversation(CHAT).ask("hi")
        notice = {"type": "disconnect", "code": 4001, "reason": "shutdown", "reconnect": True}
        await server.connections[0].send({**notice, "reconnect_within_ms": 3000})
        await server.connections[0].close(4001, "shutdown")
        await until(lambda: bool(pauses_of(seen)))
        clock.advance(2)
        await until(lambda: parley.connected)
    assert pauses_of(seen) == [1.5]
    assert seen[2].code == 4001


async def test_a_refused_token_is_told_when_entering(server: ScriptedServer, client: Connect) -> None:
    async def refuse(connection: Connection, frame: Frame) -> bool:
        await connection.send(error(frame["id"], "unauthorized", "The signature is wrong."))
        await connection.close(4500, "unauthorized")
        return True

    server.on("hello", refuse)
    with pytest.raises(parley_client.Unauthorized, match="signature"):
        async with client():
            pass
    assert len(server.connections) == 1


async def test_an_expired_token_that_cannot_be_renewed_ends_it(
    server: ScriptedServer, client: Connect
) -> None:
    async def refuse(connection: Connection, frame: Frame) -> bool:
        await connection.send(error(frame["id"], "token_expired"))
        await connection.close(4002, "token expired")
        return True

    server.on("hello", refuse)
    with pytest.raises(parley_client.TokenExpired):
        async with client():
            pass


async def test_an_expired_token_is_replaced_by_a_fresh_one(server: ScriptedServer, client: Connect) -> None:
    async def refuse(connection: Connection, frame: Frame) -> bool:
        server.tokens.append(frame["token"])
        await connection.send(error(frame["id"], "token_expired"))
        await connection.close(4002, "token expired")
        return True

    fresh = iter(["old", "new"])

    async def token() -> str:
        return next(fresh)

    server.on("hello", refuse)
    async with client(token=token) as parley:
        assert parley.connected
    assert server.tokens == ["old", "new"]


async def test_a_token_is_renewed_in_band_when_the_server_asks(
    server: ScriptedServer, client: Connect
) -> None:
    fresh = iter(["first", "second"])
    async with client(token=lambda: next(fresh)):
        await server.connections[0].send({"type": "auth.required", "expires_in": 25})
        await until(lambda: server.tokens == ["first", "second"])
    assert len(server.connections) == 1


async def test_a_token_source_that_fails_is_asked_again(server: ScriptedServer, client: Connect) -> None:
    answers: list[str | Exception] = ["later", OSError("the token service is away")]

    def token() -> str:
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with client(token=token):
        assert server.tokens == ["later"]


@pytest.mark.parametrize("code", [1000, 1008, 4501, 4503, 4504, 4507, 4999])
async def test_a_final_close_code_ends_all_that_waits(
    server: ScriptedServer, client: Connect, code: int
) -> None:
    async def end(connection: Connection, frame: Frame) -> bool:
        await connection.close(code, "why")
        return True

    server.on("process", end)
    async with client() as parley:
        chat = parley.conversation(CHAT)
        with pytest.raises(parley_client.ConnectionClosed) as closed:
            await chat.ask("hi")
        assert (closed.value.close_code, closed.value.reason) == (code, "why")
        with pytest.raises(parley_client.ConnectionClosed):
            chat.send("more")
        with pytest.raises(parley_client.ConnectionClosed):
            await chat.state()
    assert len(server.connections) == 1


async def test_no_server_is_connection_lost_after_open_timeout(clock: VirtualClock) -> None:
    parley = AsyncParley("http://127.0.0.1:1", "t", clock=clock, random=lambda: 1.0, open_timeout=3)
    opening = asyncio.create_task(parley.connect())
    await until(lambda: len(clock.waiting) == 2)
    clock.advance(3)
    with pytest.raises(parley_client.ConnectionLost) as lost:
        await opening
    assert isinstance(lost.value.__cause__, OSError)


async def test_a_wrong_address_is_told_at_once(server: ScriptedServer, client: Connect) -> None:
    server.refuse = lambda request: Response(http.HTTPStatus.NOT_FOUND, "Not Found", Headers(), b"")
    with pytest.raises(parley_client.ConnectionClosed, match="404"):
        await client().connect()


async def test_a_server_that_never_says_welcome_is_given_up(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    async def ignore(connection: Connection, frame: Frame) -> bool:
        return True

    server.on("hello", ignore)
    parley = client()
    opening = asyncio.create_task(parley.connect())
    await until(lambda: len(server.frames("hello")) == 1)
    clock.advance(10)
    await opening
    await parley.close()
    assert len(server.connections) == 2


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://host:x",
        "http://[::1",
        "localhost:8765",
        "http://user:pw@host",
        "http://host?token=x",
        "ws://host#x",
    ],
)
def test_urls_that_are_none_or_hold_credentials_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        AsyncParley(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host:1", "ws://host:1/v1/ws"),
        ("https://host/", "wss://host/v1/ws"),
        ("https://host/chat", "wss://host/chat/v1/ws"),
        ("ws://host/v1/ws", "ws://host/v1/ws"),
    ],
)
def test_urls_are_completed(url: str, expected: str) -> None:
    assert AsyncParley(url).url == expected


async def test_connection_events_tell_the_story(server: ScriptedServer, client: Connect) -> None:
    parley = client()
    stream = parley.connection_events()
    async with parley:
        server.cut()
        await until(lambda: len(server.connections) == 2 and parley.connected)
    states = [event.state async for event in stream]
    assert states == ["connecting", "connected", "disconnected", "connecting", "connected", "closed"]


async def test_a_callback_that_raises_is_logged_and_harms_nobody(
    server: ScriptedServer, client: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: ConnectionEvent) -> None:
        raise RuntimeError("mine")

    async with client(on_connection=broken) as parley:
        assert (await parley.conversation(CHAT).ask("hi")).success
    assert "on_connection raised" in caplog.text


async def test_recorded_frames_hold_no_token(server: ScriptedServer, client: Connect) -> None:
    frames: list[tuple[str, str]] = []
    async with client(on_frame=lambda way, text: frames.append((way, text))) as parley:
        await parley.conversation(CHAT).ask("hi")
    assert [way for way, _ in frames][:2] == ["out", "in"]
    assert any('"process"' in text for way, text in frames if way == "out")
    assert not any("secret-token" in text for _, text in frames)


async def test_many_conversations_are_watched_at_the_pace_that_the_server_allows(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    server.frames_per_second = 20
    async with client() as parley:
        waiting = [asyncio.create_task(parley.conversation(f"c{number}").ready()) for number in range(100)]
        await until(lambda: len(server.frames("subscribe")) == 36)
        await asyncio.sleep(0.01)
        assert len(server.frames("subscribe")) == 36
        clock.advance(1)
        await until(lambda: len(server.frames("subscribe")) == 56)
        for _ in range(5):
            clock.advance(1)
            await asyncio.sleep(0.005)
        await asyncio.gather(*waiting)
    assert len(server.frames("subscribe")) == 100


# --- bounds, time, and leaving ---------------------------------------------------------------------


async def test_a_full_outbox_takes_nothing_more(server: ScriptedServer, client: Connect) -> None:
    async def ignore(connection: Connection, frame: Frame) -> bool:
        return True

    server.on("process", ignore)
    async with client(outbox_limit=3) as parley:
        chat = parley.conversation(CHAT)
        for number in range(3):
            chat.send(str(number))
        with pytest.raises(parley_client.OutboxFull):
            chat.send("too much")
        with pytest.raises(parley_client.OutboxFull):
            await chat.ask("too much")


async def test_a_reader_that_falls_behind_is_cut_off_and_told(
    server: ScriptedServer, client: Connect
) -> None:
    async with client(event_buffer=4) as parley, parley.conversation(CHAT) as chat:
        stream = chat.events()
        await chat.ask("one")
        await chat.ask("two")
        found = []
        with pytest.raises(parley_client.EventsOverflow):  # noqa: PT012 - what came before the end counts
            async for event in stream:
                found.append(event)
        assert len(found) == 4
        assert len(chat.messages) == 4


async def test_a_timeout_ends_the_waiting_and_not_the_command(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    held: list[tuple[Connection, Frame]] = []

    async def hold(connection: Connection, frame: Frame) -> bool:
        held.append((connection, frame))
        return True

    server.on("process", hold)
    async with client() as parley:
        chat = parley.conversation(CHAT)
        asking = asyncio.create_task(chat.ask("hi", timeout=5))
        await until(lambda: bool(held))
        clock.advance(5)
        with pytest.raises(parley_client.Timeout):
            await asking
        with pytest.raises(TimeoutError):
            raise asking.exception() or AssertionError
        await server.dispatch(*held[0])
        await until(lambda: len(chat.messages) == 2)
        assert (await chat.ask("next")).text == "echo next"


async def test_send_with_a_timeout_raises_in_the_iteration(
    server: ScriptedServer, client: Connect, clock: VirtualClock
) -> None:
    async def ignore(connection: Connection, frame: Frame) -> bool:
        return True

    server.on("process", ignore)
    async with client() as parley:
        stream = parley.conversation(CHAT).send("hi", timeout=5)
        await until(lambda: bool(server.frames("process")))
        clock.advance(5)
        with pytest.raises(parley_client.Timeout):
            await anext(stream)


async def test_a_cancelled_caller_leaves_the_command_and_no_task(
    server: ScriptedServer, client: Connect
) -> None:
    held: list[tuple[Connection, Frame]] = []

    async def hold(connection: Connection, frame: Frame) -> bool:
        held.append((connection, frame))
        return True

    server.on("process", hold)
    async with client() as parley:
        chat = parley.conversation(CHAT)
        asking = asyncio.create_task(chat.ask("hi"))
        await until(lambda: bool(held))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.dispatch(*held[0])
        assert (await chat.ask("next")).text == "echo next"
    assert server.chats[CHAT].processed == ["hi", "next"]


async def test_the_same_key_asked_for_twice_at_once_is_one_command(
    server: ScriptedServer, client: Connect
) -> None:
    async with client() as parley:
        chat = parley.conversation(CHAT)
        key = "key-00000001"
        one, other = await asyncio.gather(
            chat.ask("hi", idempotency_key=key), chat.ask("hi", idempotency_key=key)
        )
        again = await chat.ask("hi", idempotency_key=key)
        assert one == other
        assert again.duplicate
        with pytest.raises(parley_client.IdempotencyConflict):
            await asyncio.gather(
                chat.ask("a", idempotency_key="key-2222"), chat.ask("b", idempotency_key="key-2222")
            )
    assert server.chats[CHAT].processed == ["hi", "a"]


async def test_what_is_no_json_is_refused_before_it_leaves(server: ScriptedServer, client: Connect) -> None:
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    async with client() as parley:
        chat = parley.conversation(CHAT)
        for metadata in ({"a": deep}, {"a": 2**60}, {"a": float("nan")}, {"a": "\ud800"}, {"a": object()}):
            with pytest.raises(parley_client.InvalidFrame):
                await chat.ask("hi", metadata=metadata)
        with pytest.raises(parley_client.InvalidFrame):
            await chat.ask("\udfff")
        with pytest.raises(parley_client.BadRequest):
            await chat.ask()
        with pytest.raises(parley_client.PayloadTooLarge):
            await chat.ask("ä" * 40_000)
        assert (await chat.ask("fine")).success
    assert server.chats[CHAT].processed == ["fine"]


async def test_closing_ends_what_waits(server: ScriptedServer, client: Connect) -> None:
    async def ignore(connection: Connection, frame: Frame) -> bool:
        return True

    server.on("process", ignore)
    server.on("state", ignore)
    parley = client()
    async with parley:
        chat = parley.conversation(CHAT)
        stream = chat.events()
        waiting = [
            asyncio.create_task(chat.ask("hi")),
            asyncio.create_task(chat.state()),
            asyncio.create_task(_all(chat.send("more"))),
            asyncio.create_task(_all(stream)),
        ]
        await until(lambda: bool(server.frames("process")) and bool(server.frames("state")))
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in results] == [parley_client.ConnectionClosed] * 3 + [list]
    await parley.close()


async def _all(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def test_closing_while_reconnecting_is_quick(server: ScriptedServer, client: Connect) -> None:
    async with client(random=lambda: 1.0) as parley:
        server.cut()
        await until(lambda: not parley.connected)
        asking = asyncio.create_task(parley.conversation(CHAT).ask("hi"))
        await asyncio.sleep(0)
    with pytest.raises(parley_client.ConnectionClosed):
        await asking


async def test_closing_a_conversation_leaves_the_connection(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley:
        async with parley.conversation(CHAT) as chat:
            await chat.ask("hi")
        with pytest.raises(parley_client.ConnectionClosed):
            await chat.ask("more")
        await until(lambda: len(server.frames("unsubscribe")) == 1)
        again = parley.conversation(CHAT)
        assert again is not chat
        assert (await again.ask("again")).text == "echo again"
        assert [message.text for message in again.messages] == ["hi", "echo hi", "again", "echo again"]


async def test_a_cursor_kept_from_earlier_goes_on_there(server: ScriptedServer, client: Connect) -> None:
    async with client() as parley, parley.conversation(CHAT) as chat:
        await chat.ask("one")
        cursor = chat.cursor
    assert cursor[0] is not None
    await server.say(CHAT, "two")
    async with client() as parley:
        chat = parley.conversation(CHAT, resume=(cursor[0], cursor[1]))
        stream = chat.events()
        event = await anext(stream)
        assert isinstance(event, ev.MessageReceived)
        assert event.message.text == "two"


async def test_a_stream_that_is_not_read_to_its_end_hurts_nobody(
    server: ScriptedServer, client: Connect
) -> None:
    async with client() as parley:
        chat = parley.conversation(CHAT)
        async for _ in chat.send("one"):
            break
        async with contextlib.aclosing(chat.send("two")) as stream:
            assert (await anext(stream)).type == "message.received"
        turn: Turn = await chat.ask("three")
        assert turn.text == "echo three"


async def test_an_abandoned_entry_leaves_nothing_behind(server: ScriptedServer, client: Connect) -> None:
    async def ignore(connection: Connection, frame: Frame) -> bool:
        return True

    server.on("hello", ignore)
    opening = asyncio.create_task(client().connect())
    await until(lambda: bool(server.frames("hello")))
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
