"""``action``: calls a Python function as an effect, with retries and a say in unknown outcomes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, Self

from server.engine.draft import Draft, StepFailure
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import JsonTemplate, Node
from server.engine.inputs import EffectFailed
from server.engine.steps.base import Effect, Fail, Goto, Next, Outcome, RetryLater
from storage.models import Attempt

DEFAULT_TIMEOUT_MS: Final = 30_000
MAX_RECOVERIES: Final = 10
"""How often an attempt is run again because its owner died: one that kills its owner must end."""


@dataclass(frozen=True, slots=True)
class OnUnknown:
    """What to do when nobody knows whether a ``write`` happened.

    ``fail`` fails the step; ``retry`` runs the effect again with the same key; ``reconcile`` asks the
    action of that name, with the same arguments: something found is the step's result and goes on at
    ``found`` (or as usual), nothing found goes to ``missing`` (a step, or ``retry``).
    """

    kind: Literal["fail", "retry", "reconcile"] = "fail"
    reconcile: str | None = None
    found: str | None = None
    missing: str = "retry"


@dataclass(frozen=True, slots=True)
class Action:
    """``action: module.function``; see the flow language for what stands beside it."""

    keyword: ClassVar[str] = "action"
    common: StepCommon
    name: str
    arguments: JsonTemplate
    on_unknown: OnUnknown

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read the call and what to do about an unknown outcome."""
        name = node.action_name("action")
        return cls(common, name or "", _parse_arguments(node), _parse_on_unknown(node, common))

    def enter(self, draft: Draft) -> Outcome:
        """Render the arguments and ask for the effect."""
        arguments = self.arguments.value(draft.context())
        if not isinstance(arguments, Mapping):
            raise StepFailure("The arguments of the action are not a mapping.", details={"action": self.name})
        draft.check_room("with", arguments, {})
        frame = draft.frames[-1]
        step_id = self.common.step_id
        visit = frame.visits[step_id]
        execution_id = draft.execution.execution_id if draft.execution else ""
        return Effect(
            Attempt(
                frame=frame.frame,
                step_id=step_id,
                visit=visit,
                key=f"{execution_id}:{frame.frame}:{step_id}:{visit}",
                message_id=draft.new_id("m"),
                number=1,
                started_at=draft.now,
                name=self.name,
                effect=self.common.effect or "write",
                arguments=arguments,
            )
        )

    def succeeded(self, draft: Draft, attempt: Attempt, value: Any) -> Outcome:
        """Save the value; after a reconciliation, go where it leads."""
        if not attempt.reconciling:
            return self._saved(draft, value)
        if value:
            outcome = self._saved(draft, value)
            return Goto(self.on_unknown.found) if self.on_unknown.found is not None else outcome
        if self.on_unknown.missing != "retry":
            return Goto(self.on_unknown.missing)
        return self._again(draft, replace(attempt, reconciling=False, name=self.name, effect="write"))

    def failed(self, draft: Draft, attempt: Attempt, failure: EffectFailed) -> Outcome:
        """Retry what may be retried; ask ``on_unknown`` where a write may have happened; else fail."""
        details = {"action": attempt.name, "reason": failure.kind}
        if attempt.reconciling:  # whoever was to say whether it happened did not: nobody knows
            details["outcome"] = "unknown"
        error = StepFailure(failure.message, details=details)
        if failure.unknown and attempt.effect == "write":
            return self._unknown(draft, attempt, error)
        retry = self.common.retry
        if retry is None or attempt.number >= retry.max or failure.kind not in retry.on:
            return Fail(error)
        delay_ms = retry.delay_ms * retry.factor ** (attempt.number - 1)
        return RetryLater(replace(attempt, retry_at=draft.now + round(min(delay_ms, 3_600_000))), error)

    def recovered(self, draft: Draft, attempt: Attempt) -> Outcome:
        """Run ``read`` and ``idempotent`` effects again; a write's outcome is unknown."""
        if attempt.effect == "write":
            lost = StepFailure("Nobody knows whether this was done.", details={"action": attempt.name})
            return self._unknown(draft, attempt, lost)
        return self._again(draft, attempt)

    def targets(self) -> tuple[str, ...]:
        """Return where an unknown outcome may lead."""
        unknown = self.on_unknown
        return tuple(t for t in (unknown.found, unknown.missing) if t is not None and t != "retry")

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions of the arguments."""
        return self.arguments.expressions

    @property
    def timeout_ms(self) -> int:
        """How long one attempt may take."""
        return self.common.timeout_ms or DEFAULT_TIMEOUT_MS

    def _saved(self, draft: Draft, value: Any) -> Outcome:
        if self.common.save is not None:
            draft.save(self.common.save, value, expose=self.common.expose)
        return Next()

    def _again(self, draft: Draft, attempt: Attempt) -> Outcome:
        if attempt.number > MAX_RECOVERIES:
            details = {"action": attempt.name}
            if attempt.may_have_written:
                details["outcome"] = "unknown"
            return Fail(StepFailure("This was tried too often.", details=details))
        return Effect(replace(attempt, number=attempt.number + 1, started_at=draft.now, retry_at=None))

    def _unknown(self, draft: Draft, attempt: Attempt, error: StepFailure) -> Outcome:
        match self.on_unknown.kind:
            case "retry":
                return self._again(draft, attempt)
            case "reconcile":
                asking = replace(
                    attempt, reconciling=True, name=self.on_unknown.reconcile or attempt.name, effect="read"
                )
                return self._again(draft, asking)
            case "fail":
                details = {**(error.details or {}), "outcome": "unknown"}
                return Fail(StepFailure(error.reason, details=details))


def _parse_arguments(node: Node) -> JsonTemplate:
    if node.value("with") is None:
        return JsonTemplate.constant({})
    arguments = node.templates("with")
    if arguments.source is not None and not arguments.may_be_mapping:
        node.problem("wrong-type", '"with" should be a mapping of arguments', "with")
    return arguments


def _parse_on_unknown(node: Node, common: StepCommon) -> OnUnknown:
    if not node.has("on_unknown"):
        return OnUnknown()
    if common.effect != "write":
        node.problem(
            "on-unknown-not-write",
            '"on_unknown" is only for effect: write; the others are run again.',
            "on_unknown",
        )
    if not node.is_mapping("on_unknown"):
        kind = node.choice("on_unknown", ("fail", "retry"), "fail")
        return OnUnknown("retry" if kind == "retry" else "fail")
    inner = node.mapping("on_unknown")
    if inner is None:
        return OnUnknown()
    reconcile = inner.action_name("reconcile")
    found = inner.target("found")
    missing = "retry" if inner.text("missing", "retry") == "retry" else inner.target("missing")
    inner.finish()
    return OnUnknown("reconcile", reconcile, found, missing or "retry")
