"""People with the Python SDK, and a record of all that they do and see.

A ``Device`` is one SDK client. Its person talks until told to stop: says things, in bursts too, resets,
cancels, asks for the state, gives up waiting, reloads the page. What it knows afterwards is in the
``History``; what it does not know is ``unknown`` there.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from parley_client import (
    AnyEvent,
    AsyncConversation,
    AsyncParley,
    ConnectionClosed,
    ConnectionEvent,
    ConversationNotFound,
    Event,
    ParleyError,
    Stream,
    Timeout,
    Turn,
    TurnFailed,
)
from parley_client.events import SnapshotReplaced

from storage.models import Audience
from tests.support.history import History

WORDS: Final = ("tea", "coffee", "two milk", "3", "2 tea", "what?", "12 coffee", "/restart")
OnBusy = Literal["enqueue", "interrupt", "reject"]
BUFFER: Final = 1_000_000


class Device:
    """One SDK client of a person, in one or several conversations.

    Args:
        history: where everything is recorded.
        name: the device's, unique in the history.
        url: the server's.
        token: the person's.
        seed: of all that the person decides, and of the SDK's pauses.
        hurry: the SDK's pauses before it reconnects are multiplied by this.
    """

    def __init__(
        self, history: History, name: str, url: str, token: str, *, seed: int, audience: Audience = "owner",
        hurry: float = 0.1,
    ) -> None:  # fmt: skip
        self.name = name
        self.random = random.Random(f"{seed}:{name}")
        self.record = history.client(name, audience)
        self.asked = 0
        self.answers_questions = audience == "owner"
        self._pauses = random.Random(f"{seed}:{name}:pauses")
        self._hurry = hurry
        self._url, self._token = url, token
        self._calls: set[asyncio.Task[Turn | None]] = set()
        self._readers: list[asyncio.Task[None]] = []
        self._chats: dict[str, AsyncConversation] = {}
        self._parley: AsyncParley | None = None

    # --- life -----------------------------------------------------------------------------------

    async def open(self, *conversations: str) -> None:
        """Connect, and watch these conversations."""
        parley = self._parley = AsyncParley(
            self._url, self._token, on_connection=self._on_connection, on_frame=self._on_frame,
            random=lambda: self._pauses.random() * self._hurry, event_buffer=BUFFER, open_timeout=60,
            connect_options={"proxy": None},
        )  # fmt: skip
        await parley.connect()
        self._chats = {name: parley.conversation(name) for name in conversations}
        streams = {name: chat.events() for name, chat in self._chats.items()}
        self._readers = [asyncio.create_task(self._read(*stream)) for stream in streams.items()]

    async def close(self) -> None:
        """Stop; whoever still waits does not know."""
        if self._parley is not None:
            await self._parley.close()
        await asyncio.gather(*self._readers, *self._calls)

    async def reload(self) -> None:
        """Forget everything, cursors too, and come back: the page was reloaded."""
        await self.close()
        await self.open(*self._chats)

    async def answered(self) -> None:
        """Wait until nobody waits any more."""
        while self._calls:
            await asyncio.wait(set(self._calls))

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state == "connecting":
            self.record.opened()
        elif event.state in ("disconnected", "closed"):
            self.record.closed(event.code)

    def _on_frame(self, direction: str, text: str) -> None:
        if direction == "out":
            self.record.sent(text)
        else:
            self.record.received(text)

    async def _read(self, conversation_id: str, stream: Stream[AnyEvent]) -> None:
        async for event in stream:
            if isinstance(event, SnapshotReplaced):
                self.record.skipped(conversation_id, event.snapshot.offset)
            elif isinstance(event, Event) and event.offset is not None:
                self.record.shown(conversation_id, event.offset)

    # --- what the person does -------------------------------------------------------------------

    def watches(self, conversation_id: str) -> bool:
        return conversation_id in self._chats

    def cursor(self, conversation_id: str) -> int:
        return self._chats[conversation_id].cursor[1]

    async def state(self, conversation_id: str) -> tuple[int, str]:
        """Ask for (offset, status); (0, "idle") while nobody has said anything."""
        try:
            state = await self._chats[conversation_id].state()
        except ConversationNotFound:
            return 0, "idle"
        return state.offset, state.status

    async def seen_to_the_end(self) -> None:
        """Wait until this device has seen everything that has happened where it watches."""
        for name in self._chats:
            while self.cursor(name) != (await self.state(name))[0]:
                await asyncio.sleep(0.02)

    async def talk(self, conversation_id: str, stop: asyncio.Event, pause_s: float = 0.01) -> None:
        """Do what people do, with pauses that are ``pause_s`` long on average, until it is enough."""
        while not stop.is_set():
            await self._do_something(conversation_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.random.expovariate(1 / pause_s)):
                    await stop.wait()

    async def _do_something(self, conversation_id: str) -> None:
        chat, chance = self._chats[conversation_id], self.random.random()
        if chance < 0.03:
            await self.command(conversation_id, "reset", lambda key: chat.reset(idempotency_key=key))
        elif chance < 0.09:
            await self.command(conversation_id, "cancel", lambda key: chat.cancel(idempotency_key=key))
        elif chance < 0.13:
            with contextlib.suppress(ParleyError):
                await chat.state(timeout=5)
        elif chance < 0.15:
            with contextlib.suppress(ParleyError):
                await chat.history(limit=self.random.randint(1, 60), timeout=5)
        elif chance < 0.17:
            await self.reload()
        elif chance < 0.30 and chat.pending():
            await self.decide(conversation_id)
        elif chance < 0.30:
            words = self.random.sample(WORDS, 3)
            calls = [asyncio.create_task(self.say(conversation_id, word, **self._manner())) for word in words]
            await asyncio.sleep(0)  # they leave in this order
            self._calls.update(calls)
            for call in calls:
                call.add_done_callback(self._calls.discard)
        else:
            patience = 0.01 if self.random.random() < 0.1 else None
            await self.say(conversation_id, self.random.choice(WORDS), timeout=patience, **self._manner())

    async def watch_and_decide(self, stop: asyncio.Event) -> None:
        """Decide whatever is asked in the conversations that are watched, until it is enough."""
        while not stop.is_set():
            for conversation_id in self._chats:
                await self.decide(conversation_id)
            await asyncio.sleep(self.random.expovariate(1 / 0.02))

    async def decide(self, conversation_id: str) -> None:
        """Decide one of the requests that are open here, as far as the device knows."""
        chat = self._chats[conversation_id]
        asked = chat.pending() if self.answers_questions else chat.pending("acceptance")
        if not asked:
            return
        request, fate = self.random.choice(asked), self.random.random()
        frame: dict[str, Any] = {"pending_id": request.pending_id}
        if request.kind == "clarification":
            answers = frame["answers"] = {"when": self.random.choice(("today", "tomorrow"))}
            await self.command(
                conversation_id, "clarification",
                lambda key: chat.answer_with(request, answers, idempotency_key=key), **frame,
            )  # fmt: skip
        elif fate < 0.2:
            await self.command(
                conversation_id, "acceptance", lambda key: chat.reject(request, idempotency_key=key),
                **frame, accepted=False, edits={},
            )  # fmt: skip
        else:
            edits = {"item": self.random.choice(("tea", "coffee", "milk"))} if fate < 0.4 else {}
            await self.command(
                conversation_id, "acceptance",
                lambda key: chat.accept(request, edits=edits, idempotency_key=key),
                **frame, accepted=True, edits=edits,
            )  # fmt: skip

    def _manner(self) -> dict[str, Any]:
        return {"on_busy": self.random.choices((None, "interrupt", "reject"), (8, 1, 1))[0]}

    async def say(
        self, conversation_id: str, text: str, *, on_busy: OnBusy | None = None, timeout: float | None = None
    ) -> Turn | None:
        """Say something and wait for the turn's end; None: it failed, was refused, or is unknown."""
        chat = self._chats[conversation_id]
        frame = {"content": {"type": "text", "text": text}, "on_busy": on_busy}
        return await self.command(
            conversation_id, "process",
            lambda key: chat.ask(text, on_busy=on_busy, idempotency_key=key, timeout=timeout), **frame,
        )  # fmt: skip

    async def command(
        self, conversation_id: str, kind: str, run: Callable[[str], Awaitable[Turn]], **frame: Any
    ) -> Turn | None:
        """Run a command under a key of its own, and note how it ended."""
        self.asked += 1
        key = f"{self.name}-{self.asked:06d}"
        record = self.record
        record.invoke(conversation_id, key, {"type": kind, **frame})
        try:
            turn = await run(key)
        except TurnFailed as failed:
            record.settled(conversation_id, key, completed=False, data=dict(failed.turn.raw))
            return None
        except (Timeout, ConnectionClosed):
            record.unknown(conversation_id, key)
            return None
        except ParleyError as refused:
            record.refused(conversation_id, key, {"code": refused.code, "temporary": refused.temporary})
            return None
        record.settled(conversation_id, key, completed=True, data=dict(turn.raw))
        return turn
