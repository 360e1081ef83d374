"""Running time: an execution that has used up what its flow allows expires."""

from protocol.errors import ErrorCode
from server.engine.draft import Draft, StepFailure
from server.engine.folding.ending import abandon_attempts, end_execution, step_error, wire_error
from server.engine.folding.turns import because, end_turn

MESSAGE = "The flow took longer than it may."


def is_overdue(draft: Draft) -> bool:
    """Tell whether the execution has run for longer than its flow's ``timeout``, its waits left out."""
    execution = draft.execution
    if execution is None or execution.timeout_ms is None:
        return False
    return draft.running_ms >= execution.timeout_ms


def expire_overdue(draft: Draft) -> None:
    """End the execution and its turn; an effect that runs is given up, a ``write`` of unknown outcome."""
    because(draft, "timeout")
    abandon_attempts(draft, MESSAGE)
    failure = StepFailure(MESSAGE, code=ErrorCode.EXPIRED)
    step_id = draft.step_id
    end_execution(draft, "expired", error=step_error(failure, step_id))
    end_turn(draft, error=wire_error(failure.code, failure.reason, step_id))
