"""A sitting at the terminal: what a person types is said, answered or decided, and what happens is shown."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final

from parley_client import (
    AsyncConversation,
    AsyncParley,
    BadRequest,
    ConnectionClosed,
    MissingAnswers,
    ParleyError,
    Pending,
    Turn,
    TurnFailed,
    TurnStream,
    events,
)
from parley_client.events import AnyEvent

from server.cli.errors import FAILED, OK
from server.cli.lines import Lines
from server.cli.requests import Interview, ServerTime, edit_of, editable
from server.cli.screen import Screen

HELP: Final = """\
/pending   show what waits for an answer or a decision
/accept    accept what waits; a comment may follow
/reject    reject it; a comment may follow
/edit      slot=value changes a slot in what is accepted next
/skip      leave a question out
/say TEXT  say something while a question is open
/new       begin another conversation
/reset     begin this one afresh
/cancel    cancel what runs
/state     show where the conversation stands
/history   show the last messages
/quit      leave (so does Ctrl-D)
While a question is open, a line answers it, and a number takes the option of that number. Else a number
presses the button of that number, and a line is said; `//x` says `/x`."""

_PAUSES: Final = (events.TurnCompleted, events.TurnFailed, events.ExecutionWaiting, events.SnapshotReplaced)
"""Behind these the flow says nothing more for now."""


class Talk:
    """A sitting.

    Args:
        parley: connected.
        screen: shows.
        lines: what is typed.
        lively: whether a person sits there; else each line waits for the end of the turn before it.
        as_json: whether every event is shown as it is.
        conversation_id: which conversation to go on with; None is a new one.
        flow_id: which flow to start with.
        again: the command that comes back.
        on_enter: is told each conversation before anything happens in it.
    """

    def __init__(
        self,
        parley: AsyncParley,
        screen: Screen,
        lines: Lines,
        *,
        lively: bool,
        as_json: bool,
        conversation_id: str | None,
        flow_id: str | None,
        again: str,
        on_enter: Callable[[AsyncConversation], None] | None = None,
    ) -> None:
        self._parley = parley
        self._screen = screen
        self._lines = lines
        self._lively = lively
        self._as_json = as_json
        self._flow_id = flow_id
        self._again = again
        self._on_enter = on_enter
        self._chat = parley.conversation(conversation_id, flow_id=flow_id)
        self._time = ServerTime()
        self._interview: Interview | None = None
        self._unasked = False
        self._edits: dict[str, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._showing: asyncio.Task[None] | None = None
        self._failed = False
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "/help": self._help,
            "/pending": self._list_pending,
            "/accept": lambda rest: self._decide(True, rest),
            "/reject": lambda rest: self._decide(False, rest),
            "/edit": self._edit,
            "/skip": self._skip,
            "/say": self._say,
            "/new": self._begin_another,
            "/reset": self._reset,
            "/cancel": self._cancel,
            "/state": self._show_state,
            "/history": self._show_history,
        }

    async def run(self) -> int:
        """Sit until the lines end; return the exit code."""
        if not self._lively:
            return await self._piped()
        await self._enter(self._chat)
        try:
            async for line in self._lines:
                self._screen.entered()
                if line.strip() == "/quit":
                    break
                await self._heed(line.strip())
                if not self._tasks:
                    self._screen.prompt()
        finally:
            self._screen.notice(f"\nGo on with: {self._again} --conversation {self._chat.conversation_id}")
        self._lines.check()
        return OK

    async def _piped(self) -> int:
        """Take line after line, each after the turn before it has ended."""
        await self._enter(self._chat)
        async for line in self._lines:
            if line.strip() == "/quit":
                break
            await self._heed(line.strip())
            self._lines.check()
        self._lines.check()
        return FAILED if self._failed else OK

    async def _enter(self, chat: AsyncConversation) -> None:
        if self._chat is not chat:
            self._chat.close()
        if self._showing is not None:
            self._showing.cancel()
        self._chat = chat
        if self._on_enter is not None:
            self._on_enter(chat)
        await chat.ready()
        if self._lively:
            self._screen.recall(chat.messages[-10:])
            self._showing = asyncio.create_task(self._show_all(chat))
        for pending in chat.pending():
            self._show_request(pending)
        self._attend()
        self._ask()
        self._screen.prompt()

    # --- showing --------------------------------------------------------------------------------

    async def _show_all(self, chat: AsyncConversation) -> None:
        try:
            async for event in chat.events():
                self._show(event)
        except ParleyError:
            pass  # whoever waits for the connection says why it ended

    def _show(self, event: AnyEvent) -> None:
        if isinstance(event, events.Event):
            self._time.hear(event.time)
        own = isinstance(event, events.TurnFailed) and event.command_id in self._screen.own_commands
        self._failed |= own
        self._attend()
        shown = self._without_questions(event) if isinstance(event, events.MessageCompleted) else event
        if shown is not None:
            self._screen.show(shown)
        waits = isinstance(event, events.ExecutionWaiting) and event.status == "waiting_acceptance"
        if waits and not self._chat.pending("acceptance"):
            self._screen.notice("Somebody else has to decide now.")
        if isinstance(event, _PAUSES):
            self._ask()

    def _attend(self) -> None:
        """Take up the questions of a clarification that is open, and drop those of one that is not."""
        mine = [pending for pending in self._chat.pending("clarification") if self._is_mine(pending)]
        at = self._interview.pending.pending_id if self._interview is not None else None
        if at not in {pending.pending_id for pending in mine}:
            self._interview = Interview(mine[0]) if mine else None
            self._unasked = True

    def _ask(self) -> None:
        """Show the question that is open, unless it has been shown."""
        if self._unasked and self._interview is not None and self._interview.question is not None:
            self._unasked = False
            self._screen.question(self._interview.question)

    def _without_questions(self, event: events.MessageCompleted) -> events.MessageCompleted | None:
        """Take the questions that are asked here, one by one, out of the message that asks them all."""
        said = event.message.text or ""
        if self._interview is None or self._as_json:
            return event
        rest = self._interview.without_questions(said)
        if rest == said:
            return event
        self._unasked = True
        return replace(event, message=replace(event.message, text=rest, buttons=())) if rest else None

    def _is_mine(self, pending: Pending) -> bool:
        """Tell whether a clarification is this person's to answer, not only to see."""
        me = (self._parley.principal or {}).get("user_id")
        if pending.by is not None:
            return pending.by.get("user") in (None, me)
        state = self._chat.snapshot.state
        return state is None or state.user_id in (None, me)

    def _show_request(self, pending: Pending) -> None:
        self._screen.request(pending, self._time.left_s(pending.deadline), self._slots())

    def _slots(self) -> Mapping[str, Any]:
        state = self._chat.snapshot.state
        return state.slots if state is not None else {}

    # --- heeding --------------------------------------------------------------------------------

    async def _heed(self, line: str) -> None:
        """Do what one of our own commands says, answer the open question, or say the line."""
        word, _, rest = line.partition(" ")
        try:
            if not line:
                return
            if word in self._commands:
                await self._commands[word](rest.strip())
            elif self._interview is not None and self._interview.question is not None and word[0] != "/":
                self._interview.answer(line)
                await self._go_on(self._interview)
            else:
                await self._say(line.removeprefix("/") if line.startswith("//") else line)
        except ConnectionClosed:
            raise
        except ParleyError as error:
            self._refuse(error)

    async def _say(self, text: str) -> None:
        buttons = self._screen.buttons
        self._screen.buttons = ()
        if text.isdecimal() and 1 <= int(text) <= len(buttons):
            stream = self._chat.send(payload=buttons[int(text) - 1].payload)
        else:
            stream = self._chat.send(text)
        self._screen.own_commands.add(stream.command_id)
        await self._perform(self._hear(stream))

    async def _hear(self, stream: TurnStream) -> None:
        """Follow a turn; a living screen shows its events with all others."""
        async for event in stream:
            if not self._lively:
                self._show(event)

    async def _reset(self, reason: str) -> None:
        work = self._chat.reset(reason or None, idempotency_key=self._new_key())
        await self._perform(self._settle(work))

    async def _cancel(self, reason: str) -> None:
        work = self._chat.cancel(reason=reason or None, idempotency_key=self._new_key())
        await self._perform(self._settle(work))

    async def _help(self, _rest: str) -> None:
        self._screen.notice(HELP)

    async def _begin_another(self, _rest: str) -> None:
        await self._enter(self._parley.conversation(flow_id=self._flow_id))
        self._screen.notice("A new conversation.")

    async def _show_state(self, _rest: str) -> None:
        self._screen.state(await self._chat.state())

    async def _show_history(self, _rest: str) -> None:
        self._screen.recall((await self._chat.history(limit=20)).messages)

    async def _list_pending(self, _rest: str) -> None:
        open_now = self._chat.pending()
        for number, pending in enumerate(open_now, 1):
            if len(open_now) > 1:
                self._screen.notice(f"#{number}")
            self._show_request(pending)
        if not open_now:
            self._screen.notice("Nothing waits for an answer or a decision here.")
        self._unasked = True
        self._ask()

    # --- decisions ------------------------------------------------------------------------------

    async def _decide(self, accepted: bool, rest: str) -> None:
        pending, comment = self._chosen(rest)
        key = self._new_key()
        if accepted:
            edits = self._edits.pop(pending.pending_id, {})
            work = self._chat.accept(pending, comment=comment or None, edits=edits, idempotency_key=key)
        else:
            work = self._chat.reject(pending, comment=comment or None, idempotency_key=key)
        await self._perform(self._settle(work))

    async def _edit(self, rest: str) -> None:
        pending, change = self._chosen(rest)
        names = editable(pending)
        try:
            name, value = edit_of(change, self._slots())
        except ValueError:
            raise BadRequest("Say which slot and its new value.", suggestion="/edit slot=value") from None
        if name not in names:
            allowed = f"What may be changed: {', '.join(names)}." if names else "Nothing may be changed."
            raise BadRequest(f"{name} may not be changed in this.", suggestion=allowed)
        kept = self._edits.setdefault(pending.pending_id, {})
        kept[name] = value
        self._screen.notice(f"/accept accepts it with {', '.join(f'{n}={v}' for n, v in kept.items())}.")

    def _chosen(self, rest: str) -> tuple[Pending, str]:
        """Return the acceptance request that is meant, and what follows; ``#2`` means the second one."""
        open_now = self._chat.pending()
        first, _, after = rest.partition(" ")
        if first.startswith("#") and first[1:].isdecimal() and 1 <= int(first[1:]) <= len(open_now):
            chosen, rest = [open_now[int(first[1:]) - 1]], after.strip()
        else:
            chosen = [pending for pending in open_now if pending.kind == "acceptance"]
        if len(chosen) > 1:
            raise BadRequest(
                "Several requests are open.", suggestion="/pending numbers them; then: /accept #1"
            )
        if not chosen or chosen[0].kind != "acceptance":
            raise BadRequest("There is no such request here.", suggestion="/pending shows what waits.")
        return chosen[0], rest

    async def _skip(self, _rest: str) -> None:
        interview = self._interview
        if interview is None or not interview.skip():
            raise BadRequest("There is no question that may be left out.")
        await self._go_on(interview)

    async def _go_on(self, interview: Interview) -> None:
        """Ask the next question of a clarification, or send the answers."""
        if interview.question is not None:
            self._screen.question(interview.question)
            return
        pending, key = interview.pending, self._new_key()
        work = self._chat.answer_with(pending, interview.answers, idempotency_key=key)
        await self._perform(self._settle(work))

    # --- commands on their way ------------------------------------------------------------------

    def _new_key(self) -> str:
        key = secrets.token_urlsafe(16)
        self._screen.own_commands.add(key)
        return key

    async def _perform(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a command run beside the lines where a person sits there, and before the next line else."""
        if not self._lively:
            await self._finish(work)
            return
        task = asyncio.create_task(self._finish(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ParleyError as error:
            if isinstance(error, ConnectionClosed):
                return  # whoever waits for the connection says why it ended
            if not self._lively:
                self._lines.check()
            self._refuse(error)
            self._ask_again(error)
            self._screen.prompt()

    async def _settle(self, work: Coroutine[Any, Any, Turn]) -> None:
        """Wait for a turn; where no living screen shows all events, show those that came with it."""
        stream = None if self._lively else self._chat.events()
        try:
            await work
        except TurnFailed:
            pass  # its event says so
        finally:
            if stream is not None:
                stream.finish()
                async for event in stream:
                    self._show(event)

    def _refuse(self, error: ParleyError) -> None:
        self._failed = True
        self._screen.error(error)

    def _ask_again(self, error: ParleyError) -> None:
        """After refused answers, ask for those that were missing or wrong, while the request is open."""
        interview = self._interview
        if interview is None or interview.question is not None:
            return
        missing: tuple[str, ...]
        if isinstance(error, MissingAnswers):
            missing = error.missing
        elif isinstance(error, BadRequest) and (error.field or "").startswith("answers"):
            missing = tuple((error.field or "").split(".")[1:2]) or tuple(interview.answers)
        else:
            return
        if interview.pending.pending_id in {pending.pending_id for pending in self._chat.pending()}:
            self._interview = Interview(interview.pending, missing=missing, answers=interview.answers)
            self._unasked = True
            self._ask()
