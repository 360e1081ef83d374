"""Which steps of the flows a test run entered, and which ways out of them it took.

Flows are watched by steps of a subclass each, which note what the step's methods answer: so what counts is
what the reducer saw, and nothing in the engine knows of it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Any, Final, cast

from server.engine.draft import Draft, StepFailure
from server.engine.flow.expressions import ExpressionFailed
from server.engine.flow.model import Flow, Step
from server.engine.steps.base import Fail, Goto, Next
from storage.models import Event

SKIPPED: Final = "if is not met"
FAILED: Final = "on_error"
_NOT_FOLLOWED: Final = frozenset({"parse", "targets", "expressions"})


@dataclass(frozen=True, slots=True)
class Missing:
    """A step that was never entered (``way`` None), or a way out of it that was never taken."""

    step_id: str
    line: int
    way: str | None = None

    def __str__(self) -> str:
        return self.step_id if self.way is None else f"{self.step_id} ({self.way})"


@dataclass(frozen=True, slots=True)
class FlowCoverage:
    """One flow's numbers. ``branches`` counts the ways out of steps that have more than one."""

    flow_id: str
    file: str
    steps: int
    steps_entered: int
    branches: int
    branches_taken: int
    missing: tuple[Missing, ...]

    @property
    def percent(self) -> float:
        """Steps and branches together; 100 where there is nothing."""
        return percent([self])


def percent(flows: Iterable[FlowCoverage]) -> float:
    """Return how much of the flows was covered, steps and branches together."""
    flows = list(flows)
    whole = sum(flow.steps + flow.branches for flow in flows)
    covered = sum(flow.steps_entered + flow.branches_taken for flow in flows)
    return 100.0 * covered / whole if whole else 100.0


class Coverage:
    """What was covered of some flows; of every run with the flows that ``watch`` returns."""

    def __init__(self) -> None:
        self._flows: dict[tuple[str, str], Flow] = {}
        self._entered: set[tuple[str, str, str]] = set()
        self._taken: set[tuple[str, str, str, str]] = set()
        self._last: dict[str, tuple[str, str, str]] = {}

    def watch(self, flows: Iterable[Flow]) -> tuple[Flow, ...]:
        """Return the flows with steps that report here. The same file is the same flow."""
        return tuple(self._watched(flow) for flow in flows)

    def _watched(self, flow: Flow) -> Flow:
        name = (flow.source_name, flow.flow_id)
        self._flows.setdefault(name, flow)
        return replace(
            flow, steps=tuple(self._followed(step, (*name, step.common.step_id)) for step in flow.steps)
        )

    def _followed(self, step: Step, place: tuple[str, str, str]) -> Step:
        """Return the step as one of a subclass whose public methods report what they answer."""
        kind = type(step)
        methods: dict[str, Any] = {"__slots__": ()}
        for name in dir(kind):
            method = getattr(kind, name)
            public = callable(method) and not name.startswith("_") and name not in _NOT_FOLLOWED
            if public and not hasattr(method, "__self__"):
                methods[name] = self._reporting(method, place, enters=name == "enter")
        followed: Any = object.__new__(type(kind.__name__, (kind,), methods))
        for entry in fields(cast("Any", step)):
            object.__setattr__(followed, entry.name, getattr(step, entry.name))
        return cast("Step", followed)

    def _reporting(
        self, method: Callable[..., Any], place: tuple[str, str, str], *, enters: bool
    ) -> Callable[..., Any]:
        @wraps(method)
        def call(step: Step, *args: Any, **kwargs: Any) -> Any:
            if any(isinstance(value, Draft) and type(value) is not Draft for value in args):
                return method(step, *args, **kwargs)  # somebody only looks ahead
            if enters:
                self._entered.add(place)
                self._last[place[2]] = place
            try:
                outcome = method(step, *args, **kwargs)
            except (StepFailure, ExpressionFailed):
                self._taken.add((*place, FAILED))
                raise
            self._note(place, outcome)
            return outcome

        return call

    def _note(self, place: tuple[str, str, str], outcome: Any) -> None:
        match outcome:
            case Goto(target):
                self._taken.add((*place, f"-> {target}"))
            case Next():
                self._taken.add((*place, _next(self._flows[place[:2]], place[2])))
            case Fail():
                self._taken.add((*place, FAILED))

    def hear(self, flows: Mapping[str, Flow], flow_id: str | None, events: Iterable[Event]) -> None:
        """Note what only events tell: steps that were skipped, and those that others say have failed."""
        for event in events:
            if event.type == "execution.started":
                flow_id = event.data["flow_id"]
            if event.step_id is None:
                continue
            if event.type == "step.failed" and event.step_id in self._last:
                self._taken.add((*self._last[event.step_id], FAILED))
            if event.type == "step.skipped":
                flow = flows.get(flow_id or "")
                if flow is None or event.step_id not in flow.index:
                    flow = next((f for f in flows.values() if event.step_id in f.index), None)
                if flow is not None:
                    self._taken.add((flow.source_name, flow.flow_id, event.step_id, SKIPPED))

    def report(self) -> tuple[FlowCoverage, ...]:
        """Return the numbers, by file."""
        return tuple(self._flow(name, flow) for name, flow in sorted(self._flows.items()))

    def _flow(self, name: tuple[str, str], flow: Flow) -> FlowCoverage:
        missing: list[Missing] = []
        entered = branches = taken = 0
        for step in flow.steps:
            step_id, line = step.common.step_id, step.common.line
            ways = ways_out(flow, step)
            found = [way for way in ways if (*name, step_id, way) in self._taken]
            branches += len(ways)
            taken += len(found)
            if (*name, step_id) not in self._entered:
                missing.append(Missing(step_id, line))
            else:
                entered += 1
                missing += [Missing(step_id, line, way) for way in ways if way not in found]
        return FlowCoverage(
            flow.flow_id, flow.source_name, len(flow.steps), entered, branches, taken, tuple(missing)
        )


def ways_out(flow: Flow, step: Step) -> tuple[str, ...]:
    """Return the ways out of a step, in words; nothing where there is only one.

    They are the steps that it names, the next one where it may simply go on, ``on_error``, and that its
    ``if`` is not met.
    """
    ways = [f"-> {target}" for target in step.targets()]
    if _goes_on(step):
        ways.append(_next(flow, step.common.step_id))
    if step.common.on_error is not None:
        ways.append(FAILED)
    if step.common.if_ is not None:
        ways.append(SKIPPED)
    distinct = tuple(dict.fromkeys(ways))
    return distinct if len(distinct) > 1 else ()


def _goes_on(step: Step) -> bool:
    """Tell whether a step may simply go on, by what it lacks: an ``else``, an ``accepted``."""
    match step.keyword:
        case "branch":
            return getattr(step, "otherwise", None) is None
        case "accept":
            return getattr(step, "accepted", None) is None or getattr(step, "rejected", None) is None
        case "end" | "link":
            return False
        case _:
            return True


def _next(flow: Flow, step_id: str) -> str:
    return f"-> {flow.next_of(step_id) or 'the end'}"


__all__ = ["FAILED", "SKIPPED", "Coverage", "FlowCoverage", "Missing", "percent", "ways_out"]
