"""Open requests at a terminal: questions in turn, the time that is left by the server's clock, edits."""

from typing import Any

import pytest
from parley_client import Pending

from server.cli.requests import Interview, ServerTime, duration, edit_of, span

QUESTIONS = [
    {"id": "part", "text": "Morning or afternoon?", "options": ["morning", "afternoon"]},
    {"id": "guests", "text": "How many guests?", "required": False},
]


def clarification(**more: Any) -> Pending:
    raw = {"pending_id": "p1", "kind": "clarification", "questions": QUESTIONS, **more}
    return Pending.from_wire(raw)


def at(seconds: int) -> str:
    return f"2026-01-01T00:{seconds // 60:02}:{seconds % 60:02}.000Z"


def test_questions_come_one_after_the_other() -> None:
    interview = Interview(clarification())
    asked = []
    for line in ("morning", "3"):
        assert interview.question is not None
        asked.append(interview.question.id)
        interview.answer(line)
    assert asked == ["part", "guests"]
    assert interview.question is None
    assert interview.answers == {"part": "morning", "guests": "3"}


@pytest.mark.parametrize(("line", "answer"), [("2", "afternoon"), ("3", "3"), ("0", "0"), ("²", "²")])
def test_the_number_of_an_option_stands_for_it(line: str, answer: str) -> None:
    interview = Interview(clarification())
    interview.answer(line)
    assert interview.answers["part"] == answer


def test_only_what_need_not_be_answered_may_be_left_out() -> None:
    interview = Interview(clarification())
    assert not interview.skip()
    interview.answer("morning")
    assert interview.skip()
    assert interview.question is None
    assert not interview.skip()
    assert interview.answers == {"part": "morning"}


def test_what_was_answered_before_is_not_asked_again() -> None:
    interview = Interview(clarification(answers={"part": "morning"}))
    assert interview.question is not None
    assert interview.question.id == "guests"


def test_what_was_missing_is_asked_again_and_the_rest_kept() -> None:
    again = Interview(clarification(), missing=("part",), answers={"part": "noon", "guests": "3"})
    again.answer("morning")
    assert again.question is None
    assert again.answers == {"part": "morning", "guests": "3"}


class Clocks:
    """A monotonic clock, and a wall clock that may be wrong."""

    def __init__(self, wall: float) -> None:
        self.monotonic, self.wall = 50.0, wall

    def time(self) -> ServerTime:
        return ServerTime(lambda: self.monotonic, lambda: self.wall)


def test_the_time_that_is_left_counts_by_the_servers_events() -> None:
    clocks = Clocks(wall=0.0)
    time = clocks.time()
    time.hear(at(60))
    assert time.left_s(at(90)) == 30
    clocks.monotonic += 10
    assert time.left_s(at(90)) == 20
    clocks.monotonic += 100
    assert time.left_s(at(90)) == 0


def test_an_event_that_comes_late_does_not_turn_the_clock_back() -> None:
    clocks = Clocks(wall=0.0)
    time = clocks.time()
    time.hear(at(60))
    time.hear(at(10))
    time.hear(None)
    assert time.left_s(at(90)) == 30


def test_without_events_this_machines_clock_has_to_do() -> None:
    wall = 1_767_225_600.0  # 2026-01-01T00:00:00Z
    assert Clocks(wall).time().left_s(at(90)) == 90
    assert Clocks(wall).time().left_s(None) is None


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (899.9, "15 minutes"),
     (3600, "1 hour"), (4 * 3600 - 2, "4 hours"), (86_400, "1 day"), (172_800, "2 days")],
)  # fmt: skip
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_request_tells_how_long_it_was_open_when_it_was_made() -> None:
    assert span(clarification(created_at=at(0), deadline=at(900))) == 900
    assert span(clarification(created_at=at(0))) is None


def test_a_message_is_shown_without_the_questions_that_are_asked_one_by_one() -> None:
    interview = Interview(clarification())
    whole = "Morning or afternoon?\nHow many guests?"
    assert interview.without_questions(whole) == ""
    assert interview.without_questions(f"I did not get that.\n{whole}") == "I did not get that."
    assert interview.without_questions("How many guests?") == ""
    assert interview.without_questions("We open at 9.") == "We open at 9."


def test_an_edit_is_a_slot_and_its_value() -> None:
    assert edit_of("date = 2031-05-21", {}) == ("date", "2031-05-21")
    assert edit_of("slots.note=a = b", {"note": "x"}) == ("note", "a = b")


def test_an_edit_is_of_the_kind_that_the_slot_holds() -> None:
    assert edit_of("amount=40", {"amount": 50}) == ("amount", 40)
    assert edit_of("amount=40", {}) == ("amount", 40)
    assert edit_of("room=40", {"room": "41"}) == ("room", "40")


def test_an_edit_without_a_slot_is_refused() -> None:
    for wrong in ("date", "=x", " = "):
        with pytest.raises(ValueError, match=wrong):
            edit_of(wrong, {})
