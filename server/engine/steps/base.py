"""What a step is to the reducer: entered, perhaps answered, perhaps resolved; and what it answers.

A step type is one file in this folder. It parses its own keys from a flow file and folds its own
part of a turn. It is pure: whatever touches the world is asked for as an ``Effect``.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from server.engine.draft import Draft, StepFailure
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import Node
from server.engine.inputs import EffectFailed, Incoming
from storage.models import Attempt, ExecutionStatus, Pending
from storage.record import record


@record(frozen=True, slots=True)
class Next:
    """The step is done; go on with its ``goto`` or the following step."""


@record(frozen=True, slots=True)
class Skip:
    """The step's ``if`` is false; go on with the step below it, whatever its ``goto`` says."""


@record(frozen=True, slots=True)
class Goto:
    """The step is done; go on there."""

    step_id: str


@record(frozen=True, slots=True)
class Wait:
    """The step waits; the draft holds what for."""

    status: ExecutionStatus


@record(frozen=True, slots=True)
class Effect:
    """Run this attempt once its intent is durable."""

    attempt: Attempt


@record(frozen=True, slots=True)
class RetryLater:
    """Run the next attempt when ``attempt.retry_at`` has come."""

    attempt: Attempt
    failure: StepFailure


@record(frozen=True, slots=True)
class Finish:
    """The frame ends here."""

    status: ExecutionStatus
    output: Any = None


@record(frozen=True, slots=True)
class Fail:
    """The step failed; its ``on_error`` decides."""

    failure: StepFailure


@record(frozen=True, slots=True)
class Descend:
    """Run another flow in a frame of its own; its end comes back to the step (``returned``)."""

    flow_id: str
    variables: Mapping[str, Any]


@record(frozen=True, slots=True)
class GoOver:
    """The step is done; another flow takes this one's place."""

    flow_id: str


@record(frozen=True, slots=True)
class Back:
    """Leave the step undone and go on at an earlier one: what that one rests on was corrected."""

    step_id: str


Outcome = Next | Skip | Goto | Wait | Effect | RetryLater | Finish | Fail | Descend | GoOver | Back


class Step(Protocol):
    """A compiled step."""

    keyword: ClassVar[str]
    common: StepCommon

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read the step's own keys; problems are recorded in ``node``."""
        ...

    def enter(self, draft: Draft) -> Outcome:
        """Fold the step. May raise StepFailure."""
        ...

    def targets(self) -> tuple[str, ...]:
        """Return the steps it can go to beside the following one."""
        ...

    def expressions(self) -> tuple[Expression, ...]:
        """Return its expressions, for the linter."""
        ...


class WaitingStep(Step, Protocol):
    """A step that waits for a message."""

    def read(self, draft: Draft, incoming: Incoming) -> Outcome | None:
        """Take the message if it is unmistakably an answer; None leaves it to digressions."""
        ...

    def fall_back(self, draft: Draft, incoming: Incoming) -> Outcome:
        """Take the message although nothing else could be made of it."""
        ...

    def ask_again(self, draft: Draft) -> Outcome:
        """Return to the open question after a digression."""
        ...


@runtime_checkable
class CallingStep(Step, Protocol):
    """A step that runs another flow."""

    def returned(self, draft: Draft, finish: Finish) -> Outcome:
        """Take what the other flow ended with. May raise StepFailure."""
        ...


@runtime_checkable
class PausingStep(Step, Protocol):
    """A step that pauses the execution."""

    def resumed(self, *, timed_out: bool) -> Outcome:
        """Say where it goes on, resumed or at its deadline."""
        ...


class AskingStep(Step, Protocol):
    """A step that asks people by a request, which stays open until it is decided or its deadline comes."""

    def ask_again(self, draft: Draft) -> Outcome:
        """Return to the request after a digression or a pause: follow it, if it was closed meanwhile."""
        ...

    def follow(self, draft: Draft, pending: Pending) -> Outcome:
        """Go where a closed request leads. May raise StepFailure."""
        ...

    def undecided(self) -> bool | None:
        """Return what counts as decided when the deadline comes; None: it leads elsewhere."""
        ...


class EffectStep(Step, Protocol):
    """A step that runs an effect."""

    def succeeded(self, draft: Draft, attempt: Attempt, value: Any) -> Outcome:
        """Take the effect's result. May raise StepFailure."""
        ...

    def failed(self, draft: Draft, attempt: Attempt, failure: EffectFailed) -> Outcome:
        """Decide what an effect's failure means: retry, unknown outcome, or failure of the step."""
        ...

    def recovered(self, draft: Draft, attempt: Attempt) -> Outcome:
        """Decide what to do with an attempt whose owner died."""
        ...
