"""Open requests at a terminal: questions one after the other, a decision's edits, the time that is left.

Nothing here reads or writes; ``talk`` does, and ``screen`` shows.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from parley_client import Pending, Question, parse_time


class Interview:
    """The questions of one clarification, and the answers so far.

    Args:
        pending: the clarification.
        missing: ask only these question ids, whatever ``answers`` holds; left out, all that lack an answer.
        answers: what is answered already, by question id.
    """

    def __init__(
        self, pending: Pending, *, missing: Iterable[str] = (), answers: Mapping[str, Any] | None = None
    ) -> None:
        wanted = set(missing)
        known = {**pending.answers, **(answers or {})}
        self.pending = pending
        self.answers = {name: answer for name, answer in known.items() if name not in wanted}
        self._left = [
            question
            for question in pending.questions
            if (question.id in wanted if wanted else question.id not in self.answers)
        ]

    @property
    def question(self) -> Question | None:
        """The question that is asked now; None when all are answered."""
        return self._left[0] if self._left else None

    def answer(self, line: str) -> None:
        """Take a line as the answer to the question; the number of an option stands for it."""
        question = self._left.pop(0)
        number = int(line) if line.isascii() and line.isdecimal() else 0
        options = question.options
        self.answers[question.id] = options[number - 1] if 1 <= number <= len(options) else line

    def without_questions(self, text: str) -> str:
        """Return what a message of the flow says besides the questions that it ends in."""
        for question in reversed(self.pending.questions):
            if text.endswith(question.text):
                text = text.removesuffix(question.text).rstrip("\n")
        return text

    def skip(self) -> bool:
        """Leave the question out; False where it must be answered."""
        if not self._left or self._left[0].required:
            return False
        self._left.pop(0)
        return True


class ServerTime:
    """The server's time as its events tell it, so that a wrong clock here shows no wrong deadline.

    Args:
        monotonic: seconds since any moment.
        wall: seconds since the epoch by this machine, which count until an event has come.
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._ahead: float | None = None

    def hear(self, event_time: str | None) -> None:
        """An event of this time has come just now. One that comes late says less than one that does not."""
        if event_time:
            ahead = parse_time(event_time).timestamp() - self._monotonic()
            self._ahead = ahead if self._ahead is None else max(self._ahead, ahead)

    def left_s(self, deadline: str | None) -> float | None:
        """Return the seconds until ``deadline``, 0 when it is over; None without one."""
        if not deadline:
            return None
        now = self._wall() if self._ahead is None else self._monotonic() + self._ahead
        return max(0.0, parse_time(deadline).timestamp() - now)


def span(pending: Pending) -> float | None:
    """Return how long a request was open to answers when it was made, in seconds; None without a deadline."""
    if not pending.deadline or not pending.created_at:
        return None
    return _seconds(parse_time(pending.created_at), parse_time(pending.deadline))


def duration(seconds: float) -> str:
    """Return a time span for people, rounded to its largest unit: ``15 minutes``, ``1 day``."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size * 0.99:  # 14:59.9 of a quarter of an hour is a quarter of an hour
            return _count(max(1, round(seconds / size)), unit)
    return _count(round(seconds), "second")


def edit_of(text: str, slots: Mapping[str, Any]) -> tuple[str, Any]:
    """Read ``slot=value``; the value may hold spaces. ``slots.`` before the name may be left out.

    Args:
        text: what was typed.
        slots: the values of now, as far as they are known: what is no text there is read as JSON.

    Raises:
        ValueError: there is no ``=``, or nothing before it.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    name = name.removeprefix("slots.")
    if not equals or not name:
        raise ValueError(text)
    if not isinstance(slots.get(name), str):
        with contextlib.suppress(ValueError):
            return name, json.loads(value)
    return name, value


def editable(pending: Pending) -> tuple[str, ...]:
    """Return the names of the slots that may be changed in accepting."""
    return tuple(name.removeprefix("slots.") for name in pending.editable)


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" + ("" if number == 1 else "s")
