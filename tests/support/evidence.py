"""What a run left behind, put in order: commands with all that was answered, streams by observer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from storage.models import Audience, Event
from tests.support.durable_log import Log
from tests.support.history import EffectLine, Entry, Frame

COMMANDS: Final = frozenset({"process", "reset", "cancel", "acceptance", "clarification"})


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise."""

    rule: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Command:
    """What a run knows of one idempotency key: who sent what when, and every answer that came."""

    client: str
    conversation_id: str
    key: str
    frame: Frame
    invoked_at: int
    sent_at: int | None = None
    acks: tuple[Entry, ...] = ()
    errors: tuple[Frame, ...] = ()
    outcome: Entry | None = None

    @property
    def type(self) -> str:
        return str(self.frame["type"])


@dataclass(frozen=True)
class Evidence:
    """Everything a run left behind."""

    entries: Sequence[Entry]
    audiences: Mapping[str, Audience]
    logs: Mapping[str, Log]
    effects: Sequence[EffectLine]
    commands: Mapping[tuple[str, str], Command] = field(init=False)
    streams: Sequence[tuple[str, Log, Sequence[Entry]]] = field(init=False)
    """(client, log, entries) for each client and each conversation that it watched."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "commands", _commands(self.entries))
        object.__setattr__(self, "streams", tuple(self._streams()))

    def sent_to(self, conversation_id: str) -> list[Command]:
        """Return the conversation's commands in the order in which the applications handed them over."""
        return [command for (where, _), command in self.commands.items() if where == conversation_id]

    def _streams(self) -> Iterator[tuple[str, Log, Sequence[Entry]]]:
        for client in self.audiences:
            mine = [entry for entry in self.entries if entry.client == client]
            for conversation_id, log in self.logs.items():
                stream = list(_about(mine, conversation_id))
                if any(e.kind == "sent" and e.body["type"] in ("hello", "subscribe") for e in stream):
                    yield client, log, stream


def is_unknown(event: Event) -> bool:
    """Tell whether a write was cut short, and its flow was told that nobody knows."""
    error = event.data.get("error") or {}
    return event.type == "step.failed" and (error.get("details") or {}).get("outcome") == "unknown"


# --- reading the frames ---------------------------------------------------------------------------


def _commands(entries: Sequence[Entry]) -> dict[tuple[str, str], Command]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    asked: dict[tuple[str, str], tuple[str, str]] = {}
    for entry in entries:
        place = (entry.conversation_id or "", entry.key or "")
        if entry.kind == "opened":
            asked = {name: about for name, about in asked.items() if name[0] != entry.client}
        elif entry.kind == "invoke":
            found[place] = {
                "client": entry.client, "conversation_id": place[0], "key": place[1], "frame": entry.body,
                "invoked_at": entry.n, "acks": [], "errors": [],
            }  # fmt: skip
        elif entry.kind == "sent" and entry.body["type"] in COMMANDS:
            asked[entry.client, entry.body["id"]] = place
            if place in found:
                found[place].setdefault("sent_at", entry.n)
        elif entry.kind == "received" and entry.body["type"] in ("ack", "error"):
            about = asked.get((entry.client, entry.body["id"] or ""))
            if about in found:
                ack = entry.body["type"] == "ack"
                found[about]["acks" if ack else "errors"].append(entry if ack else entry.body["error"])
        elif entry.kind in ("settled", "refused", "unknown") and place in found:
            found[place]["outcome"] = entry
    for known in found.values():
        known["acks"], known["errors"] = tuple(known["acks"]), tuple(known["errors"])
    return {place: Command(**known) for place, known in found.items()}


def _about(mine: Sequence[Entry], conversation_id: str) -> Iterator[Entry]:
    """Yield what concerns one conversation; answers name it only by the id of the question."""
    asked: set[str] = set()
    for entry in mine:
        if entry.kind in ("opened", "closed"):
            asked.clear()
            yield entry
        elif entry.conversation_id == conversation_id:
            if entry.kind == "sent" and "id" in entry.body:
                asked.add(entry.body["id"])
            yield entry
        elif entry.kind == "received" and entry.body.get("id") in asked:
            yield entry
