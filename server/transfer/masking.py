"""Masks what flows mark as personal (``pii: true``) in records and events.

A value that such a slot has had anywhere in a conversation is masked everywhere in it, by a stand-in of the
slot's type; a message that was to fill such a slot is masked as a whole, for what was typed need not
be what was understood. Ids stay as they are, those of users and conversations among them: whoever puts an
address into an id has it in the file. The fingerprints of commands (``body_hash``) go, since a short
message can be guessed from one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from server.engine.catalog import SHARED
from server.engine.flow.loader import compile_flow
from server.engine.flow.model import FlowInvalid, Slot
from server.testing.recording import MASKED, STAND_INS
from server.testing.words import Words
from storage.base import Store
from storage.models import Conversation, Event, EventBatch, Execution, Frame, Json, Pending

STRUCTURE: Final = frozenset(
    {
        "type",
        "role",
        "status",
        "kind",
        "message_id",
        "execution_id",
        "pending_id",
        "step_id",
        "flow_id",
        "command_id",
        "conversation_id",
        "user_id",
        "by",
        "at",
        "code",
        "offset",
        "time",
        "digest",
        "deadline",
        "created_at",
    }
)
"""Members that say how a thing is built; a word in them that looks personal is not."""
SLOTS: Final = frozenset({"slots", "edits", "answers", "arguments", "initial_context"})
"""Members whose members are named as slots are."""
FREE: Final = frozenset({"input", "output", "payload", "metadata", "details"})
"""Members that hold whatever users, authors and actions put there, under names of theirs."""


class MaskUnknown(Exception):  # noqa: N818
    """A version of a flow no longer compiles, so nobody knows what it marks."""


async def masking(store: Store) -> "Mask":
    """Return a mask for whatever any version of any flow marks. Raises MaskUnknown."""
    private: dict[str, Slot] = {}
    for head in await store.flows(SHARED):
        for number in range(1, head.latest_version + 1):
            version = await store.flow_version(SHARED, head.flow_id, number)
            if version is None:
                continue
            try:
                flow = compile_flow(version.source, version.source_name)
            except FlowInvalid:
                raise MaskUnknown(f"version {number} of flow {head.flow_id} no longer compiles") from None
            private |= {slot.name: slot for slot in flow.slots.values() if slot.pii}
    return Mask(private)


class Mask:
    """What is personal in one conversation: learned from all of its log, then taken out of each batch."""

    def __init__(self, private: Mapping[str, Slot]) -> None:
        self._private = private
        self._words = Words(MASKED)
        self._hidden: set[int] = set()
        self._asked = False
        self._said: Event | None = None

    def of(self, record: Conversation) -> "Mask":
        """Return a mask for one conversation that knows its record."""
        mask = Mask(self._private)
        mask._learn_values(record.slots)
        if record.turn is not None:
            mask._learn_values(record.turn.slots)
        return mask

    def learn(self, batch: EventBatch) -> None:
        """Learn from the next batch of the log."""
        for event in batch.events:
            match event.type:
                case "message.received":
                    self._said = event
                    if self._asked:
                        self._hidden.add(event.offset)
                case "slots.updated":
                    filled = self._learn_values(event.data.get("slots") or {})
                    said = self._said
                    if filled and said is not None and said.command_id == event.command_id:
                        self._hidden.add(said.offset)
                case "pending.resolved":
                    decided = event.data.get("decided") or {}
                    self._learn_values(decided.get("edits") or {})
                case "execution.waiting":
                    pending = event.data.get("pending") or []
                    asked = {q["id"] for p in pending for q in p.get("questions") or []}
                    self._asked = not asked.isdisjoint(self._private)

    def _learn_values(self, values: Mapping[str, Json]) -> bool:
        """Remember what private slots hold; tell whether there was anything."""
        found = False
        for key, value in values.items():
            name = key.removeprefix("slots.")
            if name not in self._private or value is None:
                continue
            found = True
            stand_in = self._stand_in(name)
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, str | int | float) and not isinstance(word, bool):
                    self._words.add(str(word), str(stand_in))
        return found

    def _stand_in(self, name: str) -> Any:
        slot = self._private[name]
        return slot.options[0] if slot.options else STAND_INS.get(slot.type, MASKED)

    # --- taking out -------------------------------------------------------------------------------

    def record(self, record: Conversation) -> Conversation:
        """Return a record without what is personal."""
        turn, execution = record.turn, record.execution
        if turn is not None:
            turn = replace(
                turn,
                messages=self._value(turn.messages),
                slots=self._slots(turn.slots),
                variables=self._named(turn.variables),
                actions=self._value(turn.actions),
            )
        return replace(
            record,
            slots=self._slots(record.slots),
            variables=self._named(record.variables),
            execution=None if execution is None else self._execution(execution),
            turn=turn,
            inbox=tuple(replace(e, command=self._command(e.command), body_hash="") for e in record.inbox),
            recent=tuple(replace(key, body_hash="") for key in record.recent),
        )

    def batch(self, batch: EventBatch) -> EventBatch:
        """Return a batch without what is personal."""
        events = tuple(replace(event, data=self._data(event)) for event in batch.events)
        return replace(batch, events=events, body_hash=None if batch.key is None else "")

    def _data(self, event: Event) -> Mapping[str, Json]:
        data: dict[str, Json] = self._value(event.data)
        if event.offset in self._hidden:
            data |= {name: MASKED for name in ("text", "payload") if data.get(name) is not None}
        return data

    def _command(self, command: Mapping[str, Json]) -> Mapping[str, Json]:
        """Mask a command that waits: what it says is of nobody knows which slot, so all of it goes."""
        masked: dict[str, Json] = self._value(command)
        content = masked.get("content")
        if isinstance(content, Mapping) and content.get("text") is not None:
            masked["content"] = {**content, "text": MASKED}
        return masked

    def _execution(self, execution: Execution) -> Execution:
        return replace(
            execution,
            input=self._free(execution.input),
            output=self._free(execution.output),
            error=self._value(execution.error),
            frames=tuple(self._frame(frame) for frame in execution.frames),
            attempts=tuple(replace(a, arguments=self._slots(a.arguments)) for a in execution.attempts),
            pending=tuple(self._request(pending) for pending in execution.pending),
        )

    def _frame(self, frame: Frame) -> Frame:
        happened = None if frame.happened is None else self._value(frame.happened)
        return replace(frame, variables=self._named(frame.variables), happened=happened)

    def _request(self, pending: Pending) -> Pending:
        return replace(
            pending,
            title=self._value(pending.title),
            prompt=self._value(pending.prompt),
            questions=tuple(
                replace(q, text=self._value(q.text), options=tuple(self._value(q.options)))
                for q in pending.questions
            ),
            votes=tuple(self._value(vote) for vote in pending.votes),
            decided=self._value(pending.decided),
            answers=self._slots(pending.answers),
        )

    def _slots(self, values: Mapping[str, Json]) -> dict[str, Json]:
        masked: dict[str, Json] = {}
        for key, value in values.items():
            name = key.removeprefix("slots.")
            is_private = name in self._private and value is not None
            masked[key] = self._stand_in(name) if is_private else self._free(value)
        return masked

    def _named(self, values: Mapping[str, Json]) -> dict[str, Json]:
        """Mask what is kept under names that a flow declares."""
        return {name: self._free(value) for name, value in values.items()}

    def _value(self, value: Any) -> Any:
        """Mask what is built as records and events are."""
        if isinstance(value, Mapping):
            return {key: self._member(key, inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(inner) for inner in value]
        return self._free(value)

    def _member(self, key: str, value: Any) -> Any:
        if key in STRUCTURE:
            return value
        if isinstance(value, Mapping) and key in SLOTS:
            return self._slots(value)
        if isinstance(value, Mapping) and key == "variables":
            return self._named(value)
        return self._free(value) if key in FREE else self._value(value)

    def _free(self, value: Any) -> Any:
        """Mask what others have built: no name in it says what is under it, and a name may be personal."""
        if isinstance(value, str):
            return self._words.replace(value)
        if isinstance(value, Mapping):
            return {self._words.replace(key): self._free(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._free(inner) for inner in value]
        if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in self._words:
            return 1
        return value
