"""The end of a session: an execution whose user has not come back."""

from server.engine.draft import Draft, StepFailure
from server.engine.folding.ending import end_execution, step_error, wire_error
from server.engine.folding.turns import because, end_turn, reduction
from server.engine.inputs import Reduction
from server.engine.schedule import session_end, wake_at

MESSAGE = "The conversation was left alone for too long."


def expire_session(draft: Draft) -> Reduction | None:
    """End an execution that waits for a user who has been away too long; None while it may wait.

    Slots and history stay: the next message starts afresh, in the same conversation.
    """
    before = draft.before.execution
    end = None if before is None else session_end(before, draft.last_activity, draft.session_ms)
    if end is None or end > draft.now or end != wake_at(draft.before, draft.now, draft.session_ms):
        return None
    because(draft, "session")
    step_id = draft.step_id
    failure = StepFailure(MESSAGE, code="expired")
    end_execution(draft, "expired", error=step_error(failure, step_id))
    end_turn(draft, error=wire_error(failure.code, failure.reason, step_id))
    return reduction(draft)
