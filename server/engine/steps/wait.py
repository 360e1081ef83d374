"""``wait``: for some time, until a time, for an event; whichever comes first."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final, Self

from server.engine.draft import Draft, StepFailure
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import Node
from server.engine.flow.templates import Template
from server.engine.inputs import Incoming
from server.engine.steps.base import Next, Outcome, Wait
from storage.models import ExecutionStatus

MAX_WAIT_MS: Final = 366 * 24 * 3600 * 1000
EVENT_NAME: Final = r"[A-Za-z][A-Za-z0-9_.-]{0,99}"


@dataclass(frozen=True, slots=True)
class WaitStep:
    """``wait: {for: duration, until: time, event: name}``; ``save`` gets the event's payload, or null."""

    keyword: ClassVar[str] = "wait"
    common: StepCommon
    for_ms: int | None
    until: Template | None
    event: str | None

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read what it waits for; at least one thing."""
        inner = node.mapping("wait", required=True, what='"wait"')
        if inner is None:
            return cls(common, None, None, None)
        for_ms = inner.duration("for", MAX_WAIT_MS)
        until = inner.template("until") if inner.has("until") else None
        event = inner.matching("event", EVENT_NAME, "a name such as payment.received")
        if all(inner.value(key) is None for key in ("for", "until", "event")):
            inner.problem("wait-empty", 'a wait needs "for", "until" or "event"')
        inner.finish()
        return cls(common, for_ms, until, event)

    def enter(self, draft: Draft) -> Outcome:
        """Wait, unless the time has passed already."""
        frame = draft.frames[-1]
        times = [] if self.for_ms is None else [draft.now + self.for_ms]
        if self.until is not None:
            times.append(self._time(draft, self.until.render(draft.context())))
        frame.timer_at, frame.awaits, frame.happened = min(times, default=None), self.event, None
        return self.ask_again(draft)

    def ask_again(self, draft: Draft) -> Outcome:
        """Go on waiting; or go on where what it waited for came meanwhile."""
        frame = draft.frames[-1]
        if frame.happened is None and frame.timer_at is not None and frame.timer_at <= draft.now:
            frame.happened = {"cause": "timer"}
        if frame.happened is not None:
            return self._go_on(draft, frame.happened)
        return Wait(self._status())

    def read(self, draft: Draft, incoming: Incoming) -> Outcome | None:
        """Leave what is said to digressions."""
        return None

    def fall_back(self, draft: Draft, incoming: Incoming) -> Outcome:
        """No message is an answer to a wait."""
        return Wait(self._status())

    def targets(self) -> tuple[str, ...]:
        """It only goes on."""
        return ()

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions in the time."""
        return self.until.expressions if self.until is not None else ()

    def _status(self) -> ExecutionStatus:
        return "waiting_timer" if self.event is None else "waiting_event"

    def _go_on(self, draft: Draft, happened: Mapping[str, Any]) -> Outcome:
        frame = draft.frames[-1]
        frame.timer_at, frame.awaits, frame.happened = None, None, None
        if self.common.save is not None:
            draft.save(self.common.save, happened.get("payload"), expose=self.common.expose)
        return Next()

    def _time(self, draft: Draft, text: str) -> int:
        """Return a time as ms; one without an offset is in the conversation's zone, a date its midnight."""
        try:
            found = datetime.fromisoformat(text.strip())
        except ValueError:
            raise StepFailure(
                "The time to wait until is no date or time.", details={"until": text[:100]}
            ) from None
        if found.tzinfo is None:
            found = found.replace(tzinfo=draft.local_time().tzinfo)
        try:
            until_ms = round(found.timestamp() * 1000)
        except (OverflowError, ValueError):
            until_ms = MAX_WAIT_MS + draft.now + 1
        if until_ms - draft.now > MAX_WAIT_MS:
            raise StepFailure("A wait may take at most a year.", details={"until": text[:100]})
        return until_ms
