"""The workspace of one reduction: a record being changed, and the events that say how.

Everything that changes a conversation goes through a method here, and each writes the matching event,
so that folding the events gives the state. Sizes are watched here too: what would exceed a limit
raises ``StepFailure``, which fails the step, never the commit.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import orjson

from server.engine.depth import is_too_deep
from server.engine.flow.model import Flow
from server.engine.flow.zones import zone_of
from server.engine.inputs import Flows
from server.engine.schedule import Claimant, earliest
from server.engine.views import iso, pending_view
from storage.models import (
    EVENT_MAX_BYTES,
    RECORD_MAX_BYTES,
    RING_SIZE,
    VALUE_MAX_BYTES,
    Attempt,
    Audience,
    CommandState,
    Conversation,
    Event,
    Execution,
    ExecutionStatus,
    Frame,
    Lease,
    OpenTurn,
    Pause,
    Pending,
    RecentKey,
)

CONTENT_MAX_BYTES: Final = RECORD_MAX_BYTES * 9 // 16
"""What slots, variables and an effect's arguments may take of a record; the inbox and the rest have
their own share."""
SPLIT_BYTES: Final = 96 * 1024
"""A commit that has grown this far is split before the next step: far enough below 256 KiB that the
largest step and the turn's last event still fit."""
SUMMARY_BYTES: Final = 32 * 1024
"""What ``turn.completed`` repeats of the turn's messages at most."""
VALUES_BYTES: Final = 12 * 1024
"""What it repeats of slots at most, and as much of variables."""
ACTIONS_BYTES: Final = 6 * 1024
"""What it repeats of actions at most. Together they leave room for the rest of an event."""
COMPLETED_STEPS_KEPT: Final = 500

_SMALL_VALUE: Final = 2048


class StepFailure(Exception):  # noqa: N818 - what happened, in the domain's words
    """A step cannot go on. ``reason`` is safe to show to the user."""

    def __init__(
        self, reason: str, *, code: str = "step_failed", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.details = details


def json_bytes(value: Any) -> int:
    """Return how many bytes ``value`` takes as JSON; of a number about."""
    if not isinstance(value, str) and (value is None or isinstance(value, bool | int | float)):
        return 8
    return len(orjson.dumps(value))


def newest_within(messages: list[Mapping[str, Any]], room: int, *, over: int = 0) -> list[Mapping[str, Any]]:
    """Return the newest messages that fit into ``room`` bytes, and ``over`` more."""
    count = 0
    for message in reversed(messages):
        room -= 250 + json_bytes(message["text"])
        if message["buttons"]:
            room -= json_bytes(message["buttons"])
        if room < 0:
            break
        count += 1
    return messages[max(0, len(messages) - count - over) :]


def values_within(values: Mapping[str, Any], room: int) -> dict[str, Any]:
    """Return the first values that fit into ``room`` bytes."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        room -= json_bytes(value) + len(name)
        if room < 0:
            break
        kept[name] = value
    return kept


def newest_actions(actions: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the newest actions that a turn tells of."""
    room, first = ACTIONS_BYTES, len(actions)
    while first and (room := room - json_bytes(actions[first - 1])) >= 0:
        first -= 1
    return actions[first:]


class FrameDraft:
    """One frame being changed. ``flow`` is its flow once somebody has asked for it."""

    __slots__ = (
        "awaits", "flow", "flow_id", "frame", "happened", "parent", "step_id", "timer_at", "tries",
        "variables", "version", "visits",
    )  # fmt: skip

    def __init__(self, source: Frame) -> None:
        self.frame = source.frame
        self.parent = source.parent
        self.flow_id = source.flow_id
        self.version = source.version
        self.flow: Flow | None = None
        self.step_id = source.step_id
        self.variables = source.variables
        self.visits = source.visits
        self.tries = source.tries
        self.timer_at = source.timer_at
        self.awaits = source.awaits
        self.happened = source.happened

    def freeze(self) -> Frame:
        """Return the frame as a record."""
        return Frame(
            self.frame, self.parent, self.flow_id, self.version, self.step_id,
            self.variables, self.visits, self.tries, self.timer_at, self.awaits, self.happened,
        )  # fmt: skip


class Draft:
    """One conversation being changed by one reduction.

    Args:
        record: what it was.
        now: the store's time, ms.
        seed: 32 hex digits, unique to this reduction; all new ids come from it.
        flows: the tenant's flows.
        claimant: who takes the lease if an effect follows.
        ring_size: how many idempotency keys are kept.
        session_ms: how long an idle session lasts; 0: for ever.
    """

    # More attributes than the 30 that Python lets the objects of a class share the layout of.
    __slots__ = (
        "_context", "_ids", "_new_slots", "_new_variables", "actions", "attempts", "before", "bytes",
        "cause", "channel", "claimant", "completed", "deleted_at", "effects", "epoch", "events",
        "execution", "expires_at", "exposed", "flows", "frames", "inbox", "last_activity", "message_count",
        "messages", "now", "offset", "pending", "preempts", "recent", "reset_offset", "results",
        "ring_full", "ring_size", "seed", "session_ms", "slots", "status", "steps", "turn", "turn_slots",
        "turn_variables", "unfinished", "variables",
    )  # fmt: skip

    def __init__(
        self,
        record: Conversation,
        now: int,
        seed: str,
        flows: Flows,
        claimant: Claimant,
        ring_size: int = RING_SIZE,
        session_ms: int = 0,
    ) -> None:
        self.claimant = claimant
        self.session_ms = session_ms
        self.ring_size = ring_size
        self.before = record
        self.now = now
        self.seed = seed
        self.flows = flows
        self.events: list[Event] = []
        self.effects: list[Attempt] = []
        self.bytes = 0
        self.offset = record.offset
        self.slots: Mapping[str, Any] = record.slots
        self.variables: Mapping[str, Any] = record.variables
        self.execution: Execution | None = record.execution
        self.status: ExecutionStatus | str = record.status
        self.frames: list[FrameDraft] = []
        self.completed: list[str] = []
        self.attempts: tuple[Attempt, ...] = ()
        self.pending: tuple[Pending, ...] = ()
        self.exposed: tuple[str, ...] = ()
        self.inbox = record.inbox
        self.recent = record.recent
        self.ring_full = record.ring_full
        self.reset_offset = record.reset_offset
        self.message_count = record.message_count
        self.last_activity = record.last_activity
        self.epoch = record.epoch
        self.channel = record.channel
        self.turn: OpenTurn | None = record.turn
        self.cause: str | None = None
        self.deleted_at = record.deleted_at
        self.expires_at = record.expires_at
        self.preempts = False
        self.unfinished = False
        self.results: dict[str, tuple[CommandState, Mapping[str, Any]]] = {}
        self.messages: list[Mapping[str, Any]] = list(self.turn.messages) if self.turn else []
        self.turn_slots: dict[str, Any] = dict(self.turn.slots) if self.turn else {}
        self.turn_variables: dict[str, Any] = dict(self.turn.variables) if self.turn else {}
        self.actions: list[Mapping[str, Any]] = list(self.turn.actions) if self.turn else []
        self.steps = self.turn.steps if self.turn else 0
        self._ids = 0
        self._new_slots: dict[str, Any] = {}
        self._new_variables: dict[str, Any] = {}
        self._context: dict[str, Any] | None = None
        self._open_execution(record.execution)

    def _open_execution(self, execution: Execution | None) -> None:
        if execution is None:
            self.frames, self.completed, self.attempts, self.pending, self.exposed = [], [], (), (), ()
            return
        self.frames = [FrameDraft(frame) for frame in execution.frames]
        self.completed = list(execution.completed_steps)
        self.attempts = execution.attempts
        self.pending = execution.pending
        self.exposed = execution.exposed

    # --- ids and time -----------------------------------------------------------------------------

    def new_id(self, prefix: str) -> str:
        """Return an id that is unique to this reduction."""
        self._ids += 1
        return f"{prefix}{self.seed[:24]}{self._ids:x}"

    def new_execution_id(self) -> str:
        """Return a UUID (version 4 in form; its random bits come from the seed)."""
        self._ids += 1
        s = f"{self.seed[:28]}{self._ids:04x}"
        return f"{s[:8]}-{s[8:12]}-4{s[13:16]}-a{s[17:20]}-{s[20:]}"

    @property
    def today(self) -> str:
        """The date in the conversation's time zone, ISO 8601."""
        return self.local_time().date().isoformat()

    def local_time(self) -> datetime:
        """The time in the conversation's time zone (UTC where it has none or an unknown one)."""
        return datetime.fromtimestamp(self.now / 1000, zone_of(self.before.timezone))

    # --- events -----------------------------------------------------------------------------------

    def emit(
        self,
        type_: str,
        data: Mapping[str, Any],
        *,
        step_id: str | None = None,
        audience: Audience = "owner",
        size: int = 0,
        command_id: str | None = None,
    ) -> None:
        """Append an event. ``size`` is an estimate of its data in bytes where it is not small."""
        if self._new_slots or self._new_variables:
            self.flush_changes()
        turn, execution, cause = self.turn, self.execution, self.cause
        if turn is not None:
            command_id, cause = command_id or turn.command_id, cause or turn.cause
        self.offset = offset = self.offset + 1
        self.bytes += 200 + size
        execution_id = None if execution is None else execution.execution_id
        self.events.append(
            Event(offset, self.now, type_, execution_id, step_id, command_id, cause, data, audience)
        )

    def flush_changes(self) -> None:
        """Write the slots and variables that changed since the last event, as events of their own."""
        if self._new_slots:
            changed, self._new_slots = self._new_slots, {}
            self._emit_values("slots.updated", "slots", changed, "owner")
        if self._new_variables:
            changed, self._new_variables = self._new_variables, {}
            shown = {name: value for name, value in changed.items() if name in self.exposed}
            hidden = {name: value for name, value in changed.items() if name not in self.exposed}
            if shown:
                self._emit_values("variables.updated", "variables", shown, "owner")
            if hidden:
                self._emit_values("variables.updated", "variables", hidden, "full")

    def _emit_values(self, type_: str, field: str, changed: dict[str, Any], audience: Audience) -> None:
        sizes = {name: json_bytes(value) for name, value in changed.items()}
        total = sum(sizes.values())
        data: dict[str, Any] = {field: changed}
        if total > EVENT_MAX_BYTES // 2:
            # A saved value may be larger than an event may be; the state has it, the event names it.
            fits, omitted, room = {}, [], EVENT_MAX_BYTES // 2
            for name, value in changed.items():
                if sizes[name] <= room:
                    fits[name] = value
                    room -= sizes[name]
                else:
                    omitted.append(name)
            data = {field: fits, "omitted": omitted}
            total = EVENT_MAX_BYTES // 2 - room
        self.emit(type_, data, audience=audience, size=total)

    # --- messages ---------------------------------------------------------------------------------

    def receive(
        self, role: str, user_id: str, text: str | None, payload: str | None, metadata: Mapping[str, Any]
    ) -> None:
        """Record what a person said."""
        self.message_count += 1
        self.last_activity = self.now
        message: dict[str, Any] = {
            "message_id": self.new_id("m"),
            "role": role,
            "type": "text",
            "text": text,
            "payload": payload,
            "buttons": [],
            "metadata": dict(metadata),
            "user_id": user_id,
            "time": iso(self.now),
            "offset": self.offset + 1,
        }
        size = json_bytes(message) if metadata else json_bytes(text) + json_bytes(payload)
        self.emit("message.received", message, size=size)

    def say(
        self, text: str, buttons: tuple[Mapping[str, str], ...] = (), *, message_type: str | None = None
    ) -> None:
        """Say something to the user. Raises StepFailure where it is too large for an event."""
        size = json_bytes(text) + (json_bytes(list(buttons)) if buttons else 0)
        if size > EVENT_MAX_BYTES // 2:
            raise StepFailure("The answer is too long to be shown.", details={"bytes": size})
        self.flush_changes()
        self.message_count += 1
        message: dict[str, Any] = {
            "message_id": self.new_id("m"),
            "role": "assistant",
            "type": message_type or ("buttons" if buttons else "text"),
            "text": text,
            "payload": None,
            "buttons": [dict(button) for button in buttons],
            "metadata": {},
            "user_id": None,
            "time": iso(self.now),
            "offset": self.offset + 1,
        }
        self.messages.append(message)
        self.emit("message.completed", message, step_id=self.step_id, size=size)

    # --- slots and variables ----------------------------------------------------------------------

    def set_slot(self, name: str, value: Any) -> None:
        """Fill (or with None clear) a slot."""
        self.check_room(name, value, self.slots)
        slots = dict(self.slots)
        if value is None:
            slots.pop(name, None)
        else:
            slots[name] = value
        self.slots = slots
        self._new_slots[name] = self.turn_slots[name] = value
        self._context = None

    def set_variable(self, name: str, value: Any, *, expose: bool = False) -> None:
        """Set a variable of the current frame. State and events show the root frame's only."""
        self._context = None
        frame = self.frame
        if frame is not None and frame.parent is not None:
            self.check_room(name, value, frame.variables)
            frame.variables = {**frame.variables, name: value}
        else:
            self.set_root_variable(name, value, expose=expose)

    def set_root_variable(self, name: str, value: Any, *, expose: bool = False) -> None:
        """Set a variable of the outermost frame, wherever the execution stands."""
        self._context = None
        self.check_room(name, value, self.variables)
        if expose and name not in self.exposed:
            self.exposed = (*self.exposed, name)
        self.variables = {**self.variables, name: value}
        self._new_variables[name] = value
        if name in self.exposed:
            self.turn_variables[name] = value

    def save(self, path: tuple[str, ...], value: Any, *, expose: bool = False) -> None:
        """Save a step's result at ``("variables", name)`` or ``("slots", name)``."""
        scope, name = path[0], path[1]
        if scope == "slots":
            self.set_slot(name, value)
        else:
            self.set_variable(name, value, expose=expose)

    def check_room(self, name: str, value: Any, held: Mapping[str, Any]) -> None:
        """Raise StepFailure where ``value`` is nested too deeply, or the record has no room for it."""
        if isinstance(value, dict | list) and is_too_deep(value):
            raise StepFailure(f'The value for "{name}" is nested too deeply.', details={"name": name})
        size = json_bytes(value)
        if size <= _SMALL_VALUE and len(held) < 256:
            return
        if size > VALUE_MAX_BYTES:
            raise StepFailure(
                f'The value for "{name}" is too large to be kept.', details={"name": name, "bytes": size}
            )
        total = size + json_bytes(dict(self.slots)) + json_bytes(dict(self.variables))
        total += sum(json_bytes(dict(frame.variables)) for frame in self.frames)
        if total > CONTENT_MAX_BYTES:
            raise StepFailure("The conversation holds too much data.", details={"name": name, "bytes": total})

    # --- where the execution stands ---------------------------------------------------------------

    @property
    def frame(self) -> FrameDraft | None:
        """The innermost frame."""
        return self.frames[-1] if self.frames else None

    @property
    def step_id(self) -> str | None:
        """The step that the innermost frame stands at."""
        return self.frames[-1].step_id if self.frames else None

    @property
    def flow(self) -> Flow:
        """The flow of the innermost frame."""
        frame = self.frames[-1]
        flow = frame.flow
        if flow is None:
            flow = frame.flow = self.flows.version(frame.flow_id, frame.version)
            if flow is None:
                raise StepFailure("This conversation's flow is no longer available.", code="flow_not_found")
        return flow

    def push_frame(self, flow_id: str, version: int, variables: Mapping[str, Any] | None = None) -> None:
        """Begin another flow inside this execution.

        Its frame is numbered by the offset that it begins behind: effect keys hold the number, and so no
        number may come twice in an execution.
        """
        parent = self.frames[-1].frame
        self.frames.append(FrameDraft(Frame(self.offset, parent, flow_id, version, None, variables or {})))
        self._context = None

    def replace_frame(self, flow_id: str, version: int) -> None:
        """Have another flow take the innermost one's place, numbered as ``push_frame`` does."""
        self.frames[-1] = FrameDraft(Frame(self.offset, self.frames[-1].parent, flow_id, version, None))
        self._context = None

    def pop_frame(self) -> None:
        """Return to the frame that began the innermost one."""
        self.frames.pop()
        self._context = None

    def context(self, **extra: Any) -> Mapping[str, Any]:
        """Return what expressions see; ``extra`` adds names such as ``value``."""
        if self._context is None:
            flow = self.flow
            frame = self.frames[-1]
            slots: dict[str, Any] = dict.fromkeys(flow.slots)
            slots.update(self.slots)
            execution = self.execution
            self._context = {
                "slots": slots,
                "variables": {
                    **flow.variables,
                    **(self.variables if frame.parent is None else frame.variables),
                },
                "input": (execution.input if execution else None) or {},
                "user": {"id": self.before.user_id},
                "tenant": {"id": self.before.tenant_id},
                "config": self.flows.config(),
                "event": {},
                "now": self.local_time().isoformat(timespec="milliseconds"),
                "today": self.today,
            }
        return {**self._context, **extra} if extra else self._context

    def set_status(self, status: ExecutionStatus) -> None:
        """Change the execution's status without an event (the caller writes it)."""
        self.status = status

    @property
    def running_ms(self) -> int:
        """How long the execution has run by now, without its waits."""
        execution, was = self.execution, self.before.execution
        if execution is None:
            return 0
        runs = was is not None and was.status == "running" and was.execution_id == execution.execution_id
        return execution.running_ms + (max(0, self.now - was.updated_at) if was is not None and runs else 0)

    @property
    def pause(self) -> Pause | None:
        """Why it is paused, or is to pause."""
        return self.execution.pause if self.execution is not None else None

    def set_pause(self, pause: Pause | None) -> None:
        """Remember why it pauses (the caller sets the status), or forget it."""
        if self.execution is not None:
            self.execution = replace(self.execution, pause=pause)

    def waiting_event(self) -> None:
        """Write ``execution.waiting`` with the open requests that it waits for; ``execution.paused``."""
        if self.status == "paused":
            self.emit("execution.paused", self.execution_data(), step_id=self.step_id)
            return
        data = self.execution_data()
        data["pending"] = [pending_view(p) for p in self.pending if p.decided is None and p.kind == "input"]
        self.emit("execution.waiting", data, step_id=self.step_id)

    def execution_data(self, *, output: Any = None, error: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the data of an ``execution.*`` event."""
        execution = self.execution
        return {
            "status": self.status,
            "flow_id": execution.flow_id if execution else None,
            "flow_version": execution.flow_version if execution else None,
            "output": output,
            "error": dict(error) if error else None,
        }

    # --- the idempotency ring ---------------------------------------------------------------------

    def remember(self, entry: RecentKey) -> None:
        """Put the entry of a key that is not there yet into the ring."""
        kept = self.recent
        if len(kept) >= self.ring_size:
            kept = kept[len(kept) - self.ring_size + 1 :]
            self.ring_full = True
        self.recent = (*kept, entry)

    def settle_key(self, key: str, status: CommandState) -> None:
        """Say in a key's entry how its turn has ended."""
        recent = self.recent
        for place in range(len(recent) - 1, -1, -1):  # it is nearly always the last
            entry = recent[place]
            if entry.key == key:
                execution_id = self.execution.execution_id if self.execution else entry.execution_id
                settled = RecentKey(
                    key, entry.body_hash, status, execution_id, entry.first_offset, self.offset
                )
                self.recent = (*recent[:place], settled, *recent[place + 1 :])
                return

    # --- the end ----------------------------------------------------------------------------------

    def freeze(self) -> Conversation:
        """Return the next record, complete: its revision and fence, and its lease where one is needed.

        An effect that is to run, and a fold that is to go on, take a lease under a new fence; an effect
        that runs on keeps its own, renewed, because the record may have been read before its last
        renewal; everything else lets go.
        """
        self.flush_changes()
        before = self.before
        execution = self.execution
        status = self.status if execution is not None else "idle"
        claims = bool(self.effects) or self.unfinished
        lease = None
        if claims:
            lease = Lease(self.claimant.owner, self.now + self.claimant.lease_ms)
        elif status == "running" and before.lease and any(a.retry_at is None for a in self.attempts):
            lease = Lease(before.lease.owner, max(before.lease.until, self.now + self.claimant.lease_ms))
        if execution is not None:
            execution = self._freeze_execution(execution)
        turn = self.turn
        if turn is not None:
            # One message more than its event will show, so that the event knows that some are missing.
            turn = replace(
                turn,
                messages=tuple(newest_within(self.messages, SUMMARY_BYTES, over=1)),
                slots=values_within(self.turn_slots, VALUES_BYTES),
                variables=values_within(self.turn_variables, VALUES_BYTES),
                actions=tuple(newest_actions(self.actions)),
                steps=self.steps,
            )
        return Conversation(
            tenant_id=before.tenant_id,
            conversation_id=before.conversation_id,
            user_id=before.user_id,
            epoch=self.epoch,
            offset=self.offset,
            revision=before.revision + 1,
            fence=before.fence + (claims or self.preempts),
            lease=lease,
            commit_id=self.seed,
            status=status,
            project_id=before.project_id,
            channel=self.channel,
            locale=before.locale,
            timezone=before.timezone,
            slots=self.slots,
            variables=self.variables,
            execution=execution,
            turn=turn,
            inbox=self.inbox,
            recent=self.recent,
            ring_full=self.ring_full,
            reset_offset=self.reset_offset,
            wake_at=earliest(self.now, lease, execution, self.inbox, self.last_activity, self.session_ms),
            expires_at=self.expires_at,
            deleted_at=self.deleted_at,
            created_at=before.created_at,
            last_activity=self.last_activity,
            message_count=self.message_count,
        )

    def _freeze_execution(self, source: Execution) -> Execution:
        return Execution(
            execution_id=source.execution_id,
            flow_id=source.flow_id,
            flow_version=source.flow_version,
            status=self.status,  # type: ignore[arg-type] # only set_status and start write it
            user_id=source.user_id,
            project_id=source.project_id,
            variant=source.variant,
            input=source.input,
            output=source.output,
            error=source.error,
            current_step_id=self.step_id if source.completed_at is None else source.current_step_id,
            completed_steps=tuple(self.completed[-COMPLETED_STEPS_KEPT:]),
            frames=tuple(frame.freeze() for frame in self.frames),
            attempts=self.attempts,
            pending=self.pending,
            command_id=self.turn.command_id if self.turn else None,
            correlation_id=source.correlation_id,
            request_id=source.request_id,
            exposed=self.exposed,
            running_ms=self.running_ms,
            started_at=source.started_at,
            updated_at=self.now,
            completed_at=source.completed_at,
            timeout_ms=source.timeout_ms,
            subflows=source.subflows,
            pause=source.pause,
        )
