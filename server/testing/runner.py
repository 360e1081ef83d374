"""Runs suites: line by line, until one is not as expected."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, assert_never

from protocol.errors import Refused
from server.engine.actions import Actions
from server.engine.flow.model import Flow
from server.engine.views import open_pending, pending_view
from server.testing.clock import VirtualClock
from server.testing.coverage import Coverage
from server.testing.expectations import Failure, Scene, Wrong
from server.testing.harness import Harness, NeverQuiet
from server.testing.matching import shown
from server.testing.stubs import StubbedActions
from server.testing.suite import TENANT, Case, Doing, Line, Suite
from storage.models import ENDED, Event

TURN_MS: Final = 86_400_000
"""How much virtual time the actions of one line may take."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a test went. ``seconds`` is real time."""

    suite: Suite
    case: Case
    failures: tuple[Failure, ...] = ()
    skipped: str | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing was amiss; so it is where it was skipped."""
        return not self.failures


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the tests of a file run in.

    Attributes:
        flows: of the project, compiled.
        real: makes the project's own actions, for stubs that ask for them.
        session_ms: how long an idle session lasts, where a test does not say.
    """

    flows: Sequence[Flow]
    real: Callable[[], Actions] = Actions
    session_ms: int = 48 * 3_600_000


def action_names(flows: Iterable[Flow]) -> frozenset[str]:
    """Return the names of all actions that the flows call."""
    steps = [step for flow in flows for step in flow.steps if step.keyword == "action"]
    named = {getattr(step, "name", None) for step in steps}
    asked = {getattr(getattr(step, "on_unknown", None), "reconcile", None) for step in steps}
    return frozenset(name for name in named | asked if name)


async def run_case(suite: Suite, case: Case, around: Surroundings, coverage: Coverage) -> Outcome:
    """Run one test in an engine of its own. Raises ActionsInvalid where real actions cannot be loaded."""
    if case.skip is not None:
        return Outcome(suite, case, skipped=case.skip)
    began = perf_counter()
    trial = _Trial(suite, case, around, coverage)
    failures = await trial.run()
    return Outcome(suite, case, tuple(failures), seconds=perf_counter() - began)


@dataclass(slots=True)
class _Brought:
    """What a line has brought so far."""

    refused: Refused | None = None
    command: str | None = None
    failures: list[Failure] = field(default_factory=list)


class _Trial:
    def __init__(self, suite: Suite, case: Case, around: Surroundings, coverage: Coverage) -> None:
        self.case = case
        self.coverage = coverage
        self.flows = {flow.flow_id: flow for flow in around.flows}
        self.clock = VirtualClock(case.now_ms)
        self.actions = StubbedActions(action_names(around.flows), case.stubs, self.clock, around.real)
        self.harness = Harness(
            coverage.watch(around.flows),
            self.actions,
            self.clock,
            tenant_id=TENANT,
            session_ms=around.session_ms if case.session_ms is None else case.session_ms,
            config=suite.config,
            timezone=case.timezone,
            locale=case.locale,
        )
        self.buttons: tuple[Mapping[str, str], ...] = ()
        self.requests: dict[str, str] = {}

    async def run(self) -> list[Failure]:
        async with self.harness:
            for line in self.case.lines:
                failures = await self._line(line)
                if failures:
                    return failures
            scene = await self._scene([], 0, _Brought())
            return [failure for wanted in self.case.expected for failure in wanted.check(scene)]

    async def _line(self, line: Line) -> list[Failure]:
        events, calls = len(self.harness.events), len(self.actions.calls)
        brought = _Brought()
        flow_id = (await self.harness.state())["flow_id"]
        try:
            if line.doing is not None:
                await self._do(line, line.doing, brought)
        except NeverQuiet:
            brought.failures.append(Failure(line.place, "the flow does not come to rest", "an end"))
        happened = self.harness.events[events:]
        self.coverage.hear(self.flows, flow_id, happened)
        self._look_around(happened)
        scene = await self._scene(happened, calls, brought)
        return [*self._uncalled_for(line, scene, brought), *_checked(line, scene)]

    async def _scene(self, events: Sequence[Event], calls: int, brought: _Brought) -> Scene:
        called: dict[str, int] = {}
        for call in self.actions.calls:
            called[call.action] = called.get(call.action, 0) + 1
        record = await self.harness.record()
        ends = [e for e in events if e.type in ("turn.completed", "turn.failed")]
        own = [e for e in ends if brought.command is None or e.command_id == brought.command]
        last = own[-1] if own else None
        return Scene(
            events=events,
            state=await self.harness.state(),
            output=record.execution.output if record is not None and record.execution is not None else None,
            calls=self.actions.calls[calls:],
            called=called,
            refused=brought.refused,
            failed=last.data["error"] if last is not None and last.type == "turn.failed" else None,
        )

    def _look_around(self, events: Iterable[Event]) -> None:
        """Remember the buttons that are shown, and the latest request of each kind."""
        for event in events:
            if event.type == "message.completed" and event.data["buttons"]:
                self.buttons = tuple(event.data["buttons"])
            elif event.type in ("clarification.requested", "acceptance.requested"):
                self.requests[event.data["kind"]] = event.data["pending_id"]

    def _uncalled_for(self, line: Line, scene: Scene, brought: _Brought) -> list[Failure]:
        """Return what is wrong although no expectation speaks of it."""
        failures = list(brought.failures)
        expected = {wanted.name for wanted in line.expected if isinstance(wanted, Wrong)}
        if scene.refused is not None and "refused" not in expected:
            refused = scene.refused.to_wire()
            got = f"{refused['code']}: {refused['message']}"
            failures.append(Failure(line.place, "the command was refused", "it is accepted", got))
        if scene.failed is not None and "fails" not in expected:
            got = f"{scene.failed['code']}: {scene.failed['message']}"
            failures.append(Failure(line.place, "the turn failed", "it goes well", got))
        for call in self.actions.surprises:
            got = f"{call.action} {shown(dict(call.arguments))}"
            failures.insert(
                0, Failure(line.place, "an action was called that has no stub", "no such call", got)
            )
        return failures

    # --- doing ------------------------------------------------------------------------------------

    async def _do(self, line: Line, doing: Doing, brought: _Brought) -> None:
        if doing.kind == "wait":
            await self.harness.pass_time(doing.body["ms"])
            return
        body = await self._body(doing, brought)
        if body is None:
            return
        kind = {"user": "process", "press": "process", "accept": "acceptance", "reject": "acceptance"}
        brought.command = self.harness.new_key()
        try:
            name = "clarification" if doing.kind == "answer" else kind.get(doing.kind, doing.kind)
            await self.harness.send(name, body, line.who, brought.command)
        except Refused as refused:
            brought.refused = refused
            return
        if not line.at_once:
            await self._let_end(line, brought)

    async def _let_end(self, line: Line, brought: _Brought) -> None:
        await self.harness.pass_time(TURN_MS, until_idle=True)
        if await self.harness.busy():
            got = f"{TURN_MS // 3_600_000}h later it still runs"
            brought.failures.append(Failure(line.place, "the turn does not end", "its end", got))

    async def _body(self, doing: Doing, brought: _Brought) -> Mapping[str, Any] | None:
        """Return the command's fields; None where it cannot be given, which is a failure."""
        body = doing.body
        match doing.kind:
            case "user":
                return self._message(body["text"], body["payload"], body["flow_id"], body["on_busy"])
            case "press":
                return self._press(doing, brought)
            case "accept" | "reject":
                pending_id = await self._request("acceptance", doing, brought)
                return None if pending_id is None else {**body, "pending_id": pending_id, "digest": None}
            case "answer":
                pending_id = await self._request("clarification", doing, brought)
                return None if pending_id is None else {**body, "pending_id": pending_id}
            case "start":
                return {
                    **body,
                    "version": None,
                    "channel": self.case.channel,
                    "on_busy": None,
                    "project_id": None,
                }
            case "wait" | "reset":
                return body
            case "cancel" | "retry" | "pause" | "resume" | "signal":
                return {**body, "execution_id": await self._execution_id()}
            case other:
                assert_never(other)

    def _message(
        self, text: str | None, payload: str | None, flow_id: str | None = None, on_busy: str = "enqueue"
    ) -> Mapping[str, Any]:
        content: dict[str, Any] = {"type": "text", "text": text, "payload": payload, "metadata": {}}
        return {"content": content, "flow_id": flow_id, "on_busy": on_busy, "channel": self.case.channel}

    def _press(self, doing: Doing, brought: _Brought) -> Mapping[str, Any] | None:
        wanted = doing.body["button"]
        for button in self.buttons:
            if wanted in (button["title"], button["payload"]):
                return self._message(None, button["payload"])
        titles = ", ".join(button["title"] for button in self.buttons) or "no button"
        brought.failures.append(Failure(doing.place, "there is no such button", shown(wanted), titles))
        return None

    async def _request(self, kind: str, doing: Doing, brought: _Brought) -> str | None:
        """Return the open request of this kind, else the latest there was: the engine says what is wrong."""
        record = await self.harness.record()
        views = [pending_view(p) for p in open_pending(record.execution if record is not None else None)]
        found = next((str(v["pending_id"]) for v in views if v["kind"] == kind), self.requests.get(kind))
        if found is None:
            brought.failures.append(
                Failure(doing.place, f"there is no {kind} to {doing.kind}", "a request", "no request")
            )
        return found

    async def _execution_id(self) -> str | None:
        record = await self.harness.record()
        execution = record.execution if record is not None else None
        if execution is None or (execution.status in ENDED and execution.status != "failed"):
            return None
        return execution.execution_id


def _checked(line: Line, scene: Scene) -> list[Failure]:
    return [failure for wanted in line.expected for failure in wanted.check(scene)]
