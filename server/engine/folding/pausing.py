"""Pauses: by a hand-off or by an operator; an operator's takes effect at the next safe point."""

from dataclasses import replace

from server.engine.draft import Draft
from server.engine.folding.ending import is_safe_point
from server.engine.folding.requests import ask_input
from server.engine.folding.turns import end_turn
from storage.models import Pause


def pause_now(draft: Draft, pause: Pause) -> None:
    """Pause where the execution stands, and say so. What a form asked is not open any more: it asks again."""
    ask_input(draft, None)
    draft.set_pause(replace(pause, wanted=False))
    draft.set_status("paused")
    draft.waiting_event()


def is_to_pause(draft: Draft) -> bool:
    """Tell whether somebody wishes a pause that has not begun."""
    return draft.pause is not None and draft.pause.wanted


def pause_at(draft: Draft, step_id: str) -> None:
    """Pause before a step, as somebody wished while an effect ran; the turn that ran ends here."""
    draft.frames[-1].step_id = step_id
    if draft.pause is not None:
        pause_now(draft, replace(draft.pause, then="enter"))
    end_turn(draft)


def pause_at_question(draft: Draft) -> None:
    """Pause where a step is about to wait; the turn that ran ends here."""
    if draft.pause is not None:
        pause_now(draft, replace(draft.pause, then="ask"))
    end_turn(draft)


def pause_before_retry(draft: Draft) -> bool:
    """Pause where that is wished and every attempt waits for its back-off; the turn that ran ends here."""
    if draft.pause is None or not draft.pause.wanted or not is_safe_point(draft):
        return False
    pause_now(draft, replace(draft.pause, then="retry"))
    end_turn(draft)
    return True
