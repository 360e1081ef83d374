"""The Python SDK against a real server: every call, other devices, tokens, and a cable that breaks."""

import asyncio
import contextlib
import datetime
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import parley_client
import pytest
from parley_client import AsyncConversation, AsyncParley, events

from tests.support.server import RunningServer, ServerProcess, running_server, server_process, token

ROOT = Path(__file__).parents[2]
BOOKING = ROOT / "examples" / "booking"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path) as server:
        yield server


def client(server: RunningServer | ServerProcess, user: str = "u1", **options: Any) -> AsyncParley:
    """Return a client that reconnects without a pause."""
    options = {"token": token(user, scopes=options.pop("scopes", ())), "random": lambda: 0.0, **options}
    return AsyncParley(options.pop("url", server.url), **options)


class Cable:
    """A TCP proxy to the server that can be pulled out."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._ends: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Cable":
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.pull()
        await self._server.wait_closed()

    def pull(self) -> None:
        """Break every connection; new ones work."""
        for end in self._ends:
            end.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._address)
        self._ends |= {writer, back}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer))

    @staticmethod
    async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def finish(chat: AsyncConversation) -> str:
    """Talk the flow ``greet`` to its end."""
    await chat.ask("hello")
    await chat.ask("Ann")
    return (await chat.ask(payload="red")).text


# --- talking ---------------------------------------------------------------------------------------


async def test_a_flow_is_talked_to_its_end(server: RunningServer) -> None:
    async with client(server) as parley:
        chat = parley.conversation()
        first = await chat.ask("hello")
        assert (first.text, first.state) == ("What is your name?", "ask")
        second = await chat.ask("Ann")
        assert second.slots == {"name": "Ann"}
        assert [button.payload for button in second.messages[0].buttons] == ["red", "green", "blue"]
        third = await chat.ask(payload="red")
        assert (third.text, third.state) == ("Hello Ann, you like red.", "idle")
        assert third.success


async def test_blanks_around_an_id_do_not_count_here_either(server: RunningServer) -> None:
    async with client(server) as parley:
        chat = parley.conversation(" c1\n")
        assert chat is parley.conversation("c1")
        await chat.ask("hi")
        assert [message.text for message in chat.messages] == ["hi", "What is your name?"]


async def test_send_yields_typed_events_up_to_the_end_of_the_turn(server: RunningServer) -> None:
    async with client(server) as parley:
        chat = parley.conversation()
        stream = chat.send("hello")
        found = [event async for event in stream]
    assert isinstance(found[0], events.ConversationCreated)
    assert isinstance(found[1], events.MessageReceived)
    assert found[1].message.user_id == "u1"
    assert any(isinstance(event, events.ExecutionStarted) and event.flow_id == "greet" for event in found)
    assert isinstance(found[-1], events.TurnCompleted)
    assert not [event for event in found if isinstance(event, events.UnknownEvent)]
    offsets = [event.offset for event in found if isinstance(event, events.Event)]
    assert offsets == sorted({offset for offset in offsets if offset is not None})


async def test_what_the_client_folds_is_what_the_server_says(server: RunningServer) -> None:
    async with client(server) as parley:
        chat = parley.conversation()
        await finish(chat)
        folded, state = chat.snapshot, await chat.state()
        page = await chat.history()
    assert folded.state is not None
    for name in ("current_state", "status", "flow_id", "flow_version", "user_id", "channel", "slots"):
        assert getattr(folded.state, name) == getattr(state, name), name
    for name in ("created_at", "last_activity", "message_count", "epoch", "offset"):
        assert getattr(folded.state, name) == getattr(state, name), name
    assert folded.messages == page.messages
    assert page.before is None


async def test_entering_later_loads_the_same(server: RunningServer) -> None:
    async with client(server) as parley:
        chat = parley.conversation("c1")
        await finish(chat)
        before = chat.snapshot
    async with client(server) as parley, parley.conversation("c1") as chat:
        after = chat.snapshot
    assert after.messages == before.messages
    assert (after.epoch, after.offset) == (before.epoch, before.offset)
    assert after.state is not None
    assert before.state is not None
    assert after.state.slots == before.state.slots


async def test_history_goes_backwards_in_pages(server: RunningServer) -> None:
    async with client(server) as parley:
        chat = parley.conversation()
        await finish(chat)
        pages = [await chat.history(limit=4)]
        while (before := pages[0].before) is not None:
            pages.insert(0, await chat.history(before, limit=4))
        assert tuple(message for page in pages for message in page.messages) == chat.messages
        with pytest.raises(parley_client.BadRequest) as refused:
            await chat.history(limit=101)
    assert refused.value.field == "limit"


async def test_reset_begins_afresh(server: RunningServer) -> None:
    async with client(server) as parley:
        chat = parley.conversation()
        await finish(chat)
        turn = await chat.reset("over")
        assert turn.success
        assert chat.messages == ()
        assert (await chat.state()).slots == {}
        assert (await chat.history()).messages == ()
        assert (await chat.ask("hello")).text == "What is your name?"


async def test_cancel_ends_what_waits_and_is_refused_where_nothing_does(server: RunningServer) -> None:
    async with client(server) as parley:
        chat = parley.conversation()
        await chat.ask("hello")
        stream = chat.events()
        assert (await chat.cancel(reason="enough")).success
        kinds = [(await anext(stream)).type for _ in range(2)]
        assert "execution.cancelled" in kinds
        assert (await chat.state()).status == "cancelled"
        with pytest.raises(parley_client.WrongState):
            await chat.cancel()


async def test_decisions_about_nothing_are_refused(server: RunningServer) -> None:
    async with client(server) as parley:
        chat = parley.conversation()
        await chat.ask("hello")
        with pytest.raises(parley_client.PendingNotFound):
            await chat.accept("p1", comment="yes", edits={"name": "Bob"}, digest="d")
        with pytest.raises(parley_client.PendingNotFound):
            await chat.reject("p1")
        with pytest.raises(parley_client.PendingNotFound):
            await chat.answer("p1", part="morning")


async def test_the_booking_example_books_an_appointment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BOOKING))
    monkeypatch.setenv("BOOKING_DB", str(tmp_path / "bookings.db"))
    flows = {path.stem: path.read_text() for path in (BOOKING / "flows").glob("*.yaml")}
    day = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=7)
    day += datetime.timedelta(days=max(0, 7 - day.weekday()) if day.weekday() >= 5 else 0)
    async with (
        running_server(tmp_path, flows=flows, actions=("booking.calendar",)) as server,
        client(server) as parley,
    ):
        chat = parley.conversation()
        turn = await chat.ask("I need an appointment")
        for _ in range(8):
            if turn.state == "gate":
                break
            asked = turn.text
            turn = await chat.ask(_answer(asked, day.isoformat()), timeout=20)
        assert turn.state == "gate"
        operator = token("olga", role="operator")
        async with (
            client(server, token=operator) as office,
            office.conversation(chat.conversation_id) as desk,
        ):
            turn = await desk.accept(desk.pending()[0])
        assert "confirmation number" in turn.text
        assert (await chat.state()).status == "completed"


def _answer(question: str, day: str) -> str:
    answers = {
        "Which service": "checkup",
        "Which day": day,
        "Your email": "ann@example.com",
        "Morning": "morning",
    }
    return next(answer for start, answer in answers.items() if start in question)


@pytest.mark.parametrize("number", [0, 1])
async def test_the_readmes_programs_run_as_they_stand(
    server: RunningServer, tmp_path: Path, number: int
) -> None:
    text = (ROOT / "clients" / "python" / "README.md").read_text()
    program = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[number]
    (tmp_path / "program.py").write_text(program)
    variables = {
        "PARLEY_URL": server.url,
        "PARLEY_TOKEN": token(),
        "PYTHONPATH": str(ROOT / "clients" / "python" / "src"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-W", "error", str(tmp_path / "program.py"),
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, err = await process.communicate()
    # In development mode asyncio says what took longer than 0.1 s, as anything may on a busy machine.
    complaints = [line for line in err.decode().splitlines() if not line.startswith("Executing <")]
    assert (process.returncode, complaints) == (0, [])
    assert said.decode().splitlines() == ["What is your name?", "Which colour? ask"]


# --- identity of commands --------------------------------------------------------------------------


async def test_a_key_takes_effect_once_whoever_repeats_it(server: RunningServer) -> None:
    key = "key-of-this-test-1"
    async with client(server) as parley:
        first = await parley.conversation("c1").ask("hello", idempotency_key=key)
    async with client(server) as parley:
        chat = parley.conversation("c1")
        again = await chat.ask("hello", idempotency_key=key)
        assert again.duplicate
        assert again.messages == first.messages
        assert len(chat.messages) == 2
        with pytest.raises(parley_client.IdempotencyConflict):
            await chat.ask("something else", idempotency_key=key)


async def test_a_duplicate_is_yielded_as_its_end_alone(server: RunningServer) -> None:
    key = "key-of-this-test-2"
    async with client(server) as parley:
        await parley.conversation("c1").ask("hello", idempotency_key=key)
    async with client(server) as parley, parley.conversation("c1") as chat:
        stream = chat.send("hello", idempotency_key=key)
        (end,) = [event async for event in stream]
        assert isinstance(end, events.TurnCompleted)
        assert end.offset is None
        assert stream.duplicate


async def test_commands_of_one_caller_keep_their_order(server: RunningServer) -> None:
    async with client(server) as parley:
        chat = parley.conversation()
        said = [f"number {number}" for number in range(30)]
        await asyncio.gather(*(chat.ask(text) for text in said))
        assert [message.text for message in chat.messages if message.role == "user"] == said


# --- others ----------------------------------------------------------------------------------------


async def test_two_devices_see_the_same(server: RunningServer) -> None:
    async with client(server) as one, client(server) as other, other.conversation("c1") as watched:
        stream = watched.events()
        chat = one.conversation("c1")
        mine = [event async for event in chat.send("hello")]
        theirs = [await anext(stream) for _ in mine]
    assert mine == theirs


async def test_typing_reaches_the_other_device(server: RunningServer) -> None:
    async with client(server) as one, client(server) as other:
        chat = one.conversation("c1")
        await chat.ask("hello")
        watched = other.conversation("c1")
        await watched.ready()
        stream = watched.events()
        chat.typing(True)
        notice = await anext(stream)
        assert isinstance(notice, events.TypingNotice)
        assert notice.user_id == "u1"


async def test_somebody_elses_conversation_is_not_found(server: RunningServer) -> None:
    async with client(server) as mine, client(server, "u2") as theirs:
        await mine.conversation("c1").ask("hello")
        await theirs.conversation("mine").ask("hello")
        foreign = theirs.conversation("c1")
        for call in (foreign.ready, foreign.state, foreign.history, foreign.reset):
            with pytest.raises(parley_client.ConversationNotFound):
                await call()
        with pytest.raises(parley_client.ConversationNotFound):
            await foreign.ask("hello")
        assert (await theirs.conversation("mine").ask("Bob")).success


async def test_a_service_speaks_for_a_user_only_with_the_scope(server: RunningServer) -> None:
    async with client(server, "bot", scopes=("users:act",)) as service:
        chat = service.conversation("c1", user_id="u7", channel="api")
        await chat.ask("hello")
    async with client(server, "u7") as parley:
        assert (await parley.conversation("c1").state()).channel == "api"
    async with client(server, "u8") as parley:
        with pytest.raises(parley_client.PermissionDenied):
            await parley.conversation("c2").ask("hello", user_id="u7")


# --- credentials -----------------------------------------------------------------------------------


async def test_a_wrong_token_is_told_when_entering(server: RunningServer) -> None:
    wrong = token(secret="another secret of at least thirty-two bytes")
    with pytest.raises(parley_client.Unauthorized):
        async with client(server, token=wrong):
            pass


async def test_an_expired_token_is_told_when_entering(server: RunningServer) -> None:
    with pytest.raises(parley_client.TokenExpired):
        async with client(server, token=token(ttl_s=-60)):
            pass


async def test_an_expired_token_is_replaced_where_there_is_a_source(server: RunningServer) -> None:
    tokens = iter([token(ttl_s=-60), token()])
    async with client(server, token=lambda: next(tokens)) as parley:
        assert parley.principal is not None
        assert parley.principal["user_id"] == "u1"


async def test_a_short_token_is_renewed_within_the_connection(server: RunningServer) -> None:
    asked = 0

    async def source() -> str:
        nonlocal asked
        asked += 1
        return token(ttl_s=20 if asked == 1 else 3600)

    seen: list[str] = []
    async with client(server, token=source, on_connection=lambda event: seen.append(event.state)) as parley:
        await parley.conversation().ask("hello")
        async with asyncio.timeout(10):
            while asked < 2:
                await asyncio.sleep(0.01)
        assert (await parley.conversation().ask("hello")).success
        assert seen == ["connecting", "connected"]


# --- breaking --------------------------------------------------------------------------------------


async def test_a_broken_cable_goes_unnoticed(server: RunningServer) -> None:
    async with Cable(server.address) as cable, client(server, url=cable.url) as parley:
        chat = parley.conversation()
        stream = chat.events()
        said = [f"number {number}" for number in range(25)]

        async def talk() -> None:
            for text in said:
                await chat.ask(text, timeout=20)

        talking = asyncio.create_task(talk())
        while not talking.done():
            await asyncio.sleep(0.02)
            cable.pull()
        await talking
        async with client(server) as observer, observer.conversation(chat.conversation_id) as other:
            whole = other.snapshot
        async with asyncio.timeout(10):
            while chat.cursor[1] < whole.offset:
                await asyncio.sleep(0.01)
        assert chat.messages == whole.messages
        assert [message.text for message in whole.messages if message.role == "user"] == said
        await _assert_seen_once_in_order(stream, whole.offset)


async def _assert_seen_once_in_order(stream: Any, offset: int) -> None:
    last = 0
    while last < offset:
        event = await anext(stream)
        if isinstance(event, events.SnapshotReplaced):
            last = event.snapshot.offset
        else:
            assert event.offset > last
            last = event.offset


async def test_a_drained_server_sends_its_clients_elsewhere(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'parley.db'}"
    seen: list[parley_client.ConnectionEvent] = []
    with server_process(tmp_path, PARLEY_STORE=store) as first:
        port = int(first.url.rpartition(":")[2])
        async with client(first, on_connection=seen.append) as parley:
            chat = parley.conversation()
            await chat.ask("hello")
            stopping = asyncio.get_running_loop().run_in_executor(None, first.terminate)
            asking = asyncio.create_task(chat.ask("Ann", timeout=30))
            assert await stopping == 0
            with server_process(tmp_path, port=port, PARLEY_STORE=store):
                assert (await asking).text == "Which colour?"
                assert len(chat.messages) == 4
    left = next(event for event in seen if event.state == "disconnected")
    assert left.code == 4001


async def test_a_killed_server_goes_on_where_the_conversation_was(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'parley.db'}"
    with server_process(tmp_path, PARLEY_STORE=store) as first:
        port = int(first.url.rpartition(":")[2])
        async with client(first, random=lambda: 0.2) as parley:
            chat = parley.conversation()
            await chat.ask("hello")
            first.kill()
            asking = asyncio.create_task(chat.ask("Ann", timeout=30))
            with server_process(tmp_path, port=port, PARLEY_STORE=store):
                assert (await asking).text == "Which colour?"
                assert (await chat.ask(payload="blue")).text == "Hello Ann, you like blue."
                said = [
                    message.text or message.payload for message in chat.messages if message.role == "user"
                ]
                assert said == ["hello", "Ann", "blue"]
