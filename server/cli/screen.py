"""What ``parley chat`` shows: a conversation's events as lines, for people or for machines.

What a conversation says comes from flows, models and other people; it is shown without the control
characters by which a text could drive the terminal.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, TextIO

import click
from parley_client import (
    Button,
    ConnectionEvent,
    Message,
    ParleyError,
    Pending,
    PendingResolved,
    Question,
    State,
    events,
)
from parley_client.events import AnyEvent

from server.cli.requests import duration, editable, span

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_PROMPT = "> "


class Screen:
    """Shows events.

    Args:
        out: where replies go.
        notices: where everything else goes.
        lively: whether a person sits there: prompts, streamed pieces, what happens to the connection.
        as_json: one JSON object an event, and nothing else.
    """

    def __init__(self, out: TextIO, notices: TextIO, *, lively: bool, as_json: bool) -> None:
        self.buttons: tuple[Button, ...] = ()
        self.own_commands: set[str] = set()
        self._out = out
        self._notices = notices
        self._lively = lively
        self._json = as_json
        self._prompting = False
        self._partial: tuple[str, str] | None = None  # message id, and its text so far
        self._connected = False

    def show(self, event: AnyEvent) -> None:
        """Show one event."""
        if self._json:
            self._line(json.dumps(as_record(event)))
            return
        match event:
            case events.MessageDelta(message_id=message_id, delta=delta) if self._lively:
                self._piece(message_id, printable(delta))
            case events.MessageCompleted(message=message):
                self._message(message)
            case events.MessageReceived(message=message) if event.command_id not in self.own_commands:
                self._message(message)
            case events.FlowCustom(name="action.progress", payload=payload) if self._lively:
                self.notice(f"... {_progress(payload)}")
            case events.HandoffRequested():
                self.notice("A person is asked to take over.")
            case events.ConversationReset():
                self.notice("The conversation begins afresh.")
            case events.TurnFailed(error=error):
                self.error(error)
            case events.SnapshotReplaced(snapshot=snapshot) if self._lively:
                self.recall(snapshot.messages[-10:])
            case events.SubscriptionEnded(error=error):
                self.error(error)
            case _:
                self._show_request(event)
        if isinstance(event, events.TurnCompleted | events.TurnFailed):
            self.own_commands.discard(event.command_id or "")
            self.prompt()
        elif isinstance(event, events.ExecutionEvent) and event.command_id is None:
            self.prompt()  # no turn ends here: it was a deadline or a timer

    def _show_request(self, event: AnyEvent) -> None:
        match event:
            case events.ClarificationRequested(pending=pending) | events.AcceptanceRequested(pending=pending):
                self.request(pending, span(pending))
            case events.PendingResolved(decided=decided) if event.command_id not in self.own_commands:
                self.notice(f"{_decision(decided)}.")
            case events.PendingExpired(decided=decided):
                what = f"Nobody decided in time: {_decision(decided).lower()}."
                closed = "This can no longer be answered."
                self.notice(closed if decided.get("accepted") is None else what)

    def recall(self, messages: tuple[Message, ...]) -> None:
        """Show what was said before."""
        for message in messages:
            self._message(message)

    def state(self, state: State) -> None:
        """Show where the conversation stands."""
        flow = f" of {state.flow_id} (version {state.flow_version})" if state.flow_id else ""
        self.notice(f"{state.status} at {state.current_state}{flow}, offset {state.offset}")
        for name, value in state.slots.items():
            self.notice(f"  {name}: {json.dumps(value, ensure_ascii=False)}")

    def request(self, pending: Pending, left_s: float | None, slots: Mapping[str, Any] | None = None) -> None:
        """Show an open request: what it is about, who may do what, and how much time is left (seconds)."""
        if self._json:
            return
        about = [pending.title, None if pending.questions else pending.prompt]
        for text in about:
            if text:
                self._line(printable(text))
        within = "" if left_s is None else f" within {duration(left_s)}"
        if pending.kind == "clarification":
            if within:
                self.notice(f"Please answer{within}.")
            return
        self.notice(f"/accept or /reject{within}; a comment may follow.")
        if pending.votes:
            self.notice(f"So far: {', '.join(map(_decision, pending.votes))}.")
        names = editable(pending)
        if names:
            shown = ", ".join(name + _now(name, slots or {}) for name in names)
            self.notice(f"Before that, /edit {names[0]}=... may change: {shown}.")

    def question(self, question: Question) -> None:
        """Show the question that the next line answers."""
        if self._json:
            return
        self._line(printable(question.text))
        for number, option in enumerate(question.options, 1):
            self._line(f"  {number}) {printable(option)}")
        if not question.required:
            self.notice("/skip leaves it out.")

    def error(self, error: ParleyError) -> None:
        """Show what was refused or has failed."""
        if self._json:
            what = {"code": error.code, "message": error.message, "suggestion": error.suggestion}
            self._line(json.dumps({"type": "error", "error": what}))
            return
        hint = f" ({error.suggestion})" if error.suggestion else ""
        decided = error.decided if isinstance(error, PendingResolved) else {}
        known = f" {_decision(decided)}." if decided else ""
        self.notice(f"! {error.message}{known}{hint}")

    def notice(self, text: str) -> None:
        """Show something that nobody said."""
        if self._json:
            return
        self._clear()
        click.echo(click.style(printable(text), dim=True), file=self._notices)

    def prompt(self) -> None:
        """Show that it is the person's turn."""
        if self._lively and not self._prompting:
            self._end_piece()
            self._out.write(_PROMPT)
            self._out.flush()
            self._prompting = True

    def entered(self) -> None:
        """The person has pressed Return: the cursor stands at the beginning of a line."""
        self._prompting = False

    def on_connection(self, event: ConnectionEvent) -> None:
        """Show what happens to the connection."""
        if event.state == "connected":
            if self._connected and self._lively:
                self.notice("Connected again.")
                self.prompt()
            self._connected = True
        elif event.state == "disconnected" and self._lively and event.attempt == 1:
            if self._connected:
                self.notice("The connection is lost; trying to get it back. What you say now is sent then.")
                self.prompt()
            else:
                self.notice("There is no answer yet; trying again.")
        elif event.state == "trouble" and isinstance(event.error, ParleyError):
            self.error(event.error)

    def _message(self, message: Message) -> None:
        if self._partial is not None and self._partial == (
            message.message_id,
            printable(message.text or ""),
        ):
            self._end_piece()
        else:
            self._line(_spoken(message, self._lively))
        if message.role != "user":
            self.buttons = message.buttons
        for number, button in enumerate(message.buttons, 1):
            self._line(f"  {number}) {printable(button.title)}")

    def _piece(self, message_id: str, text: str) -> None:
        if self._partial is None or self._partial[0] != message_id:
            self._clear()
            self._partial = (message_id, "")
        self._partial = (message_id, self._partial[1] + text)
        self._out.write(text)
        self._out.flush()

    def _end_piece(self) -> None:
        if self._partial is not None:
            self._partial = None
            self._out.write("\n")

    def _line(self, text: str) -> None:
        self._clear()
        click.echo(text, file=self._out)

    def _clear(self) -> None:
        """Begin a line, over the prompt if that is all there is."""
        self._end_piece()
        if self._prompting:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._prompting = False


def _spoken(message: Message, lively: bool) -> str:
    text = printable(message.text if message.text is not None else json.dumps(message.payload))
    if not lively:
        return text
    if message.role == "assistant":
        return click.style(text, fg="cyan")
    return f"{click.style('you' if message.role == 'user' else message.role, dim=True)}: {text}"


def _now(name: str, slots: Mapping[str, Any]) -> str:
    return f" (now {json.dumps(slots[name], ensure_ascii=False)})" if name in slots else ""


def _decision(decided: Mapping[str, Any]) -> str:
    """Return who decided what, e.g. ``Accepted by ada: fine with me``."""
    accepted = decided.get("accepted")
    what = "Answered" if accepted is None else "Accepted" if accepted else "Rejected"
    by, comment = decided.get("by"), decided.get("comment")
    who = by.get("user_id") or by.get("user") if isinstance(by, Mapping) else by
    return what + (f" by {who}" if who else "") + (f": {comment}" if comment else "")


def printable(text: str) -> str:
    """Return ``text`` without what would drive a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _progress(payload: Any) -> str:
    text = payload.get("text") if isinstance(payload, Mapping) else payload
    return text if isinstance(text, str) else json.dumps(text)


def as_record(event: AnyEvent) -> dict[str, Any]:
    """Return an event as it was on the wire, or as near as its fields are."""
    match event:
        case events.Event():
            names = ("type", "offset", "time", "execution_id", "step_id", "command_id", "cause")
            return {**{name: getattr(event, name) for name in names}, "data": dict(event.data)}
        case events.MessageDelta():
            return {
                "type": event.type,
                "message_id": event.message_id,
                "index": event.index,
                "delta": event.delta,
            }
        case events.TypingNotice():
            return {"type": event.type, "user_id": event.user_id, "typing": event.typing}
        case events.SnapshotReplaced(snapshot=snapshot):
            return {"type": event.type, "epoch": snapshot.epoch, "offset": snapshot.offset}
        case events.SubscriptionEnded(error=error):
            return {"type": event.type, "code": error.code}
