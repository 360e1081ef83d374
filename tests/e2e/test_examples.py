"""The examples, each as a person meets it: a real server, the real SDK, the whole conversation."""

import asyncio
import importlib.util
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from parley_client import AsyncConversation, AsyncParley, Turn

from tests.support.ports import free_port
from tests.support.server import server_process, token

EXAMPLES = Path(__file__).parents[2] / "examples"
TUESDAY = "2031-05-20"
WEDNESDAY = "2031-05-21"
SATURDAY = "2031-05-24"
SAID = re.compile(r"^> (.*)$")
BUTTON = re.compile(r"  (\[|[0-9]+\) )")


@pytest.fixture
def booking(tmp_path: Path) -> Path:
    """A copy of the example; its calendar's file is in it."""
    return copy("booking", tmp_path)


def copy(name: str, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("*.db*", ".parley", "__pycache__")
    return Path(shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=ignored))


@asynccontextmanager
async def talk(url: str, user_id: str = "ada") -> AsyncIterator[AsyncConversation]:
    async with AsyncParley(url, token=token(user_id)) as parley, parley.conversation(f"of-{user_id}") as chat:
        yield chat


def texts(turn: Turn) -> list[str]:
    return [message.text or "" for message in turn.messages]


def transcript(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield what is said in a page's example conversation, each with the answers; buttons are left out."""
    block = re.findall(r"```text\n(.*?)```", page.read_text(), re.DOTALL)[0]
    said, answers = "", list[str]()
    for line in block.splitlines():
        if match := SAID.match(line):
            if said:
                yield said, answers
            said, answers = match[1], []
        elif not BUTTON.match(line):
            answers.append(line)
    yield said, answers


def without_refs(lines: list[str]) -> list[str]:
    """Leave confirmation numbers out: they are drawn by lot."""
    return [re.sub(r"number is \w{6}", "number is ......", line) for line in lines]


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "bookings.db")) as database:
        return database.execute(query).fetchall()


def ref_in(turn: Turn) -> str:
    (ref,) = re.findall(r"confirmation number is (?:still )?(\w{6})\.", turn.text)
    return str(ref)


async def book(
    url: str, chat: AsyncConversation, what: str = f"book a consultation on {TUESDAY} morning"
) -> Turn:
    await chat.ask(what)
    await chat.ask("ada@example.com")
    return await accept(url, chat.conversation_id)


async def accept(url: str, conversation_id: str, **edits: str) -> Turn:
    """Accept at the desk what waits in a conversation."""
    operator = token("olga", role="operator")
    async with AsyncParley(url, token=operator) as parley, parley.conversation(conversation_id) as desk:
        (pending,) = desk.pending("acceptance")
        return await desk.accept(pending, edits=edits)


@pytest.mark.parametrize("name", ["booking", "faq"])
async def test_the_conversation_in_the_readme_goes_just_so(name: str, tmp_path: Path) -> None:
    with server_process(copy(name, tmp_path)) as server:
        async with talk(server.url) as chat:
            for said, answers in transcript(EXAMPLES / name / "README.md"):
                found = texts(await chat.ask(said))
                if (await chat.state()).status == "waiting_acceptance":
                    found += texts(await accept(server.url, chat.conversation_id))
                assert without_refs(found) == without_refs(answers)


async def test_a_booking_is_kept_moved_and_cancelled_by_its_number(booking: Path) -> None:
    with server_process(booking) as server:
        async with talk(server.url) as chat:
            ref = ref_in(await book(server.url, chat))
            assert rows(booking, "SELECT ref, day, time, email, cancelled FROM bookings") == [
                (ref, TUESDAY, "09:00", "ada@example.com", 0)
            ]
            await chat.ask("I want to move my appointment")
            await chat.ask(ref.lower())
            await chat.ask(WEDNESDAY)
            assert ref_in(await chat.ask("yes")) == ref
            assert rows(booking, "SELECT ref, day FROM bookings") == [(ref, WEDNESDAY)]
            await chat.ask("cancel")
            await chat.ask(ref)
            assert texts(await chat.ask("yes")) == [f"Your booking {ref} is cancelled."]
            assert rows(booking, "SELECT ref, cancelled FROM bookings") == [(ref, 1)]
            await chat.ask("cancel")
            assert texts(await chat.ask(ref)) == [f"I know no booking {ref}."]


async def test_one_message_fills_all_the_slots_it_names(booking: Path) -> None:
    with server_process(booking) as server:
        async with talk(server.url) as chat:
            turn = await chat.ask(f"book a checkup on {TUESDAY} in the afternoon, I am ada@example.com")
            assert texts(turn) == [f"I have asked the desk for a checkup on {TUESDAY} at 14:00."]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("I need a checkup on Tuesday", "Your email?"),
        ("I want to move my checkup", "What is your confirmation number?"),
        ("cancel my appointment", "What is your confirmation number?"),
        ("are you open on Saturday?", "We are open Monday to Friday, 9 to 12 and 14 to 17."),
    ],
)
async def test_the_first_sentence_finds_its_flow(said: str, answer: str, booking: Path) -> None:
    with server_process(booking) as server:
        async with talk(server.url) as chat:
            assert texts(await chat.ask(said)) == [answer]


async def test_what_is_taken_is_not_offered_again(booking: Path) -> None:
    with server_process(booking) as server:
        for user_id, time in (("ada", "09:00"), ("bob", "10:00")):
            async with talk(server.url, user_id) as chat:
                assert f"at {time}." in (await book(server.url, chat)).text
    assert rows(booking, "SELECT time FROM bookings ORDER BY time") == [("09:00",), ("10:00",)]


async def test_two_who_want_the_last_time_do_not_both_get_it(booking: Path) -> None:
    """The desk is asked about nine o'clock by both before it accepts either."""
    with server_process(booking) as server:
        async with talk(server.url, "ada") as first, talk(server.url, "bob") as second:
            for chat in (first, second):
                await chat.ask(f"book a consultation on {TUESDAY} morning, ada@example.com")
            assert "at 09:00. Your confirmation number" in (await accept(server.url, "of-ada")).text
            assert texts(await accept(server.url, "of-bob")) == [
                "Somebody was faster: 09:00 has just been taken. Let me look again.",
                f"I have asked the desk for a consultation on {TUESDAY} at 10:00.",
            ]
            assert "at 10:00. Your confirmation number" in (await accept(server.url, "of-bob")).text


async def test_the_desk_may_move_an_appointment_in_accepting_it(booking: Path) -> None:
    with server_process(booking) as server:
        async with talk(server.url) as chat:
            await chat.ask(f"book a consultation on {TUESDAY} morning, ada@example.com")
            told = await accept(server.url, chat.conversation_id, date=WEDNESDAY)
            assert f"Booked: consultation on {WEDNESDAY} at 09:00." in told.text
            assert rows(booking, "SELECT ref, day FROM bookings") == [(ref_in(told), WEDNESDAY)]


async def test_who_asks_meanwhile_is_told_that_the_desk_has_not_answered(booking: Path) -> None:
    with server_process(booking) as server:
        async with talk(server.url) as chat:
            await chat.ask(f"book a consultation on {TUESDAY} morning, ada@example.com")
            assert texts(await chat.ask("well?")) == [
                "The desk has not answered yet. I tell you as soon as it has."
            ]
            assert "Booked" in (await accept(server.url, chat.conversation_id)).text


async def test_a_no_books_nothing(booking: Path) -> None:
    operator = token("olga", role="operator")
    with server_process(booking) as server:
        async with (
            talk(server.url) as chat,
            AsyncParley(server.url, token=operator) as parley,
            parley.conversation(chat.conversation_id) as desk,
        ):
            await chat.ask(f"book a consultation on {TUESDAY} morning, ada@example.com")
            pending_id = (await desk.state()).pending[0].pending_id
            assert texts(await desk.reject(pending_id)) == [
                "The desk cannot take you then. Nothing was booked."
            ]
            assert texts(await chat.ask(f"book a consultation on {SATURDAY}, ada@example.com")) == [
                f"There is no free time on {SATURDAY}. Nothing was booked."
            ]
    assert rows(booking, "SELECT count(*) FROM bookings") == [(0,)]


async def test_a_server_killed_while_it_books_has_booked_once(booking: Path) -> None:
    """The calendar has booked, the server dies before it knows: the README's own demonstration."""
    port = free_port()
    with server_process(booking, port=port, BOOKING_SECONDS="15") as server:
        async with talk(server.url) as chat:
            await chat.ask(f"book a consultation on {TUESDAY} morning, ada@example.com")
            answer = asyncio.create_task(accept(server.url, chat.conversation_id))
            while not rows(booking, "SELECT ref FROM bookings"):
                await asyncio.sleep(0.02)  # another process writes that file
            server.kill()
            with server_process(booking, port=port):
                turn = await answer
    assert rows(booking, "SELECT ref FROM bookings") == [(ref_in(turn),)]


async def test_buttons_lead_through_the_faq(tmp_path: Path) -> None:
    with server_process(copy("faq", tmp_path)) as server:
        async with talk(server.url) as chat:
            (menu,) = (await chat.ask("hello")).messages
            assert [button.title for button in menu.buttons] == ["Delivery", "Returns", "A person"]
            for button in menu.buttons[1:]:
                assert texts(await chat.ask(payload=button.payload)) != texts(await chat.ask("hello"))
            await chat.ask(payload=menu.buttons[0].payload)
            assert texts(await chat.ask(payload="elsewhere")) == ["Five to eight working days."]


class TestCalendar:
    """The booking example's actions by themselves: what ``once`` means there."""

    @pytest.fixture
    def calendar(self, booking: Path) -> ModuleType:
        path = booking / "booking" / "calendar.py"
        spec = importlib.util.spec_from_file_location("calendar_of_the_example", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    async def test_the_same_key_books_once(self, calendar: ModuleType) -> None:
        context, offer = SimpleNamespace(key="k1"), f"checkup/{TUESDAY}/09:00"
        first = await calendar.reserve(context, offer=offer, email="ada@example.com")
        assert await calendar.reserve(context, offer=offer, email="ada@example.com") == first
        assert calendar.lookup(context, offer=offer) == first
        assert len(calendar.search(context, service="checkup", day=TUESDAY)) == 6

    async def test_a_change_that_never_happened_is_unknown(self, calendar: ModuleType) -> None:
        assert calendar.lookup(SimpleNamespace(key="never")) is None

    async def test_a_time_holds_as_many_as_its_capacity(self, calendar: ModuleType) -> None:
        offer = f"checkup/{TUESDAY}/09:00"
        booked = [
            await calendar.reserve(SimpleNamespace(key=f"k{number}"), offer=offer, email="ada@example.com")
            for number in range(3)
        ]
        assert [bool(booking["ref"]) for booking in booked] == [True, True, False]

    async def test_a_failed_change_leaves_nothing(self, calendar: ModuleType) -> None:
        context = SimpleNamespace(key="k1")
        with pytest.raises(ValueError, match="unpack"):
            await calendar.reserve(context, offer="nonsense", email="ada@example.com")
        assert calendar.lookup(context) is None
