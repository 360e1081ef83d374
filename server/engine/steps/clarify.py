"""``clarify``: asks questions at once, whose answers come as a form, or one by one as messages."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self, cast

from protocol.errors import ErrorCode, Refused
from server.engine.draft import Draft
from server.engine.flow.expressions import Expression
from server.engine.flow.model import SLOT_TYPES, Slot, SlotType, StepCommon
from server.engine.flow.node import NAME, Node, Template, did_you_mean
from server.engine.flow.slots import SlotInvalid, explain, normalise, question_options, read_slot
from server.engine.folding.requests import (
    announce,
    change,
    close,
    decision,
    is_due,
    open_request,
    request_of,
)
from server.engine.inputs import Incoming
from server.engine.steps.asking import Deadline, decider, parse_deadline
from server.engine.steps.base import Goto, Next, Outcome, Wait
from storage.models import Pending, Question

MAX_QUESTIONS: Final = 20
MAX_OPTIONS: Final = 50


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the flow has it: its text is a template."""

    id: str
    text: Template
    type: SlotType
    options: tuple[str, ...]
    required: bool


@dataclass(frozen=True, slots=True)
class Clarify:
    """``clarify: {questions: [{id, text, type, options, required}], deadline, on_timeout}``.

    ``save`` gets the answers by question id, null where one was left out.
    """

    keyword: ClassVar[str] = "clarify"
    common: StepCommon
    questions: tuple[Asked, ...]
    deadline: Deadline

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read the questions, and until when they are open."""
        inner = node.mapping("clarify", required=True)
        if inner is None:
            return cls(common, (), Deadline())
        items = inner.nodes("questions", required=True, what="a question")
        if inner.is_list("questions") and not 1 <= len(items) <= MAX_QUESTIONS:
            inner.problem("out-of-range", f"1 to {MAX_QUESTIONS} questions can be asked at once", "questions")
        questions: list[Asked] = []
        for item in items:
            question = _parse_question(item)
            if any(question.id == other.id for other in questions):
                item.problem("duplicate-key", f'the question "{question.id}" is here twice', "id")
            questions.append(question)
        deadline = parse_deadline(inner, decides=False)
        inner.finish()
        return cls(common, tuple(questions), deadline)

    def enter(self, draft: Draft) -> Outcome:
        """Ask all questions."""
        context = draft.context()
        pending = Pending(
            draft.new_id("p"),
            "clarification",
            self.common.step_id,
            prompt="\n".join(asked.text.render(context) for asked in self.questions),
            questions=tuple(
                Question(asked.id, asked.text.render(context), asked.type, asked.options, asked.required)
                for asked in self.questions
            ),
            by=decider(draft, None),
            deadline=self.deadline.at(draft.now),
            created_at=draft.now,
            frame=draft.frames[-1].frame,
        )
        open_request(draft, pending)
        return _ask(draft, pending)

    def ask_again(self, draft: Draft) -> Outcome:
        """Return to the open questions; follow the request, if it was closed meanwhile."""
        pending = request_of(draft, self.common.step_id)
        if pending is None:
            return self.enter(draft)
        return _ask(draft, pending) if pending.decided is None else self.follow(draft, pending)

    def read(self, draft: Draft, incoming: Incoming) -> Outcome | None:
        """Take the message if exactly one open question fits, text questions aside."""
        pending = request_of(draft, self.common.step_id)
        if pending is None or is_due(pending, draft.now):
            return Wait("waiting_clarification")  # the sweep is about to go on from here
        found = [
            (question, value)
            for question in _open(pending)
            if question.type != "text" or incoming.text is None
            if (value := _read(draft, question, incoming.said)) is not None
        ]
        return self._take(draft, pending, *found[0]) if len(found) == 1 else None

    def fall_back(self, draft: Draft, incoming: Incoming) -> Outcome:
        """Take the message as the only open text question's answer, or ask again."""
        pending = request_of(draft, self.common.step_id)
        if pending is None:
            return self.enter(draft)
        questions = _open(pending)
        texts = [question for question in questions if question.type == "text"]
        said = incoming.said.strip()
        if len(texts) == 1 and said and not _fits_typed(draft, questions, incoming.said):
            return self._take(draft, pending, texts[0], said)
        if self.common.while_waiting is not None:
            why = self.common.while_waiting.render(draft.context())
        else:
            why = _explain(draft, questions[0], incoming.said) if len(questions) == 1 else ""
        return _ask(draft, pending, why)

    def follow(self, draft: Draft, pending: Pending) -> Outcome:
        """Save the answers and go on, or go where the deadline leads."""
        decided = pending.decided or {}
        if decided["answers"] is None:
            return Goto(self.deadline.target) if self.deadline.target is not None else Next()
        if self.common.save is not None:
            draft.save(self.common.save, decided["answers"], expose=self.common.expose)
        return Next()

    def undecided(self) -> bool | None:
        """Nothing counts as answered when the deadline comes."""
        return None

    def targets(self) -> tuple[str, ...]:
        """Return where the deadline leads."""
        return (self.deadline.target,) if self.deadline.target is not None else ()

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions of the questions."""
        return tuple(expression for asked in self.questions for expression in asked.text.expressions)

    def _take(self, draft: Draft, pending: Pending, question: Question, value: Any) -> Outcome:
        """Note one answer; go on once nothing that is needed is open."""
        answered = replace(pending, answers={**pending.answers, question.id: value})
        if any(open_.required for open_ in _open(answered)):
            change(draft, answered)
            announce(draft, answered)
            return _ask(draft, answered)
        told = decision(draft, draft.before.user_id, answers=_all_answers(answered))
        closed = close(draft, answered, told)
        draft.set_status("running")
        draft.emit("execution.resumed", draft.execution_data(), step_id=pending.step_id)
        return self.follow(draft, closed)


def given_answers(draft: Draft, pending: Pending, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers of a ``clarification`` by question, in their stored form; null: left out.

    Raises:
        Refused: ``bad_request`` for an unknown question or an answer that does not fit, naming it;
            ``missing_answers`` with all that are missing.
    """
    known = {question.id: question for question in pending.questions}
    answers = dict(pending.answers)
    for name, value in given.items():
        question = known.get(name)
        if question is None:
            hint = did_you_mean(name, known)
            raise _bad_answer(name, f'There is no question "{name[:60]}".', hint)
        if value is not None and value != "":
            answers[name] = _answer(draft, question, value)
    answered = replace(pending, answers=answers)
    missing = [question.id for question in _open(answered) if question.required]
    if missing:
        raise Refused(
            ErrorCode.MISSING_ANSWERS,
            f"These questions need an answer: {', '.join(missing)}.",
            field="answers",
            details={"missing": missing},
        )
    return _all_answers(answered)


def _answer(draft: Draft, question: Question, value: Any) -> Any:
    """Return an answer in its stored form; a text is read as a message would be."""
    slot = _slot(question)
    try:
        found = normalise(slot, value)
    except SlotInvalid as invalid:
        found = _read(draft, question, value) if isinstance(value, str) else None
        if found is None:
            raise _bad_answer(question.id, invalid.message, None) from None
    return found


def _bad_answer(name: str, message: str, suggestion: str | None) -> Refused:
    return Refused(ErrorCode.BAD_REQUEST, message, field=f"answers.{name[:60]}", suggestion=suggestion)


def _all_answers(pending: Pending) -> dict[str, Any]:
    return {question.id: pending.answers.get(question.id) for question in pending.questions}


def _open(pending: Pending) -> list[Question]:
    return [question for question in pending.questions if question.id not in pending.answers]


def _slot(question: Question) -> Slot:
    """Return the slot that a question is; a list is made of its options, or of texts."""
    slot = Slot(question.id, cast("SlotType", question.type), question.options)
    if slot.type != "list":
        return slot
    return replace(slot, items=replace(slot, type="choice" if slot.options else "text"))


def _read(draft: Draft, question: Question, text: str) -> Any:
    reading = read_slot(
        _slot(question),
        text,
        now_ms=draft.now,
        timezone=draft.before.timezone,
        locale=draft.before.locale,
        focused=True,
    )
    return reading.value if reading is not None else None


def _explain(draft: Draft, question: Question, text: str) -> str:
    zone, locale = draft.before.timezone, draft.before.locale
    return explain(_slot(question), text, now_ms=draft.now, timezone=zone, locale=locale)


def _fits_typed(draft: Draft, questions: list[Question], text: str) -> bool:
    return any(_read(draft, question, text) is not None for question in questions if question.type != "text")


def _ask(draft: Draft, pending: Pending, why: str = "") -> Outcome:
    """Say what is open; one question offers its options, several are a form."""
    questions = _open(pending)
    text = "\n".join(part for part in (why, *(question.text for question in questions)) if part)
    options = question_options(_slot(questions[0])) if len(questions) == 1 else ()
    buttons = tuple({"title": option, "payload": option} for option in options)
    draft.say(text, buttons, message_type="form" if len(questions) > 1 else None)
    return Wait("waiting_clarification")


def _parse_question(node: Node) -> Asked:
    question_id = node.text("id", "", required=True)
    if question_id and not NAME.fullmatch(question_id):
        node.problem("name-pattern", "a question's id is a-z, 0-9 and _, and begins with a letter", "id")
    options = node.names("options")
    chosen = node.choice("type", SLOT_TYPES, "choice" if options else "text")
    if chosen == "choice" and not options:
        node.problem("choice-options", 'a question of type choice needs "options"', "options")
    elif chosen == "boolean" and len(options) not in (0, 2):
        node.problem("choice-options", "a boolean has two options: what yes and no are called", "options")
    elif options and chosen not in {"choice", "list", "boolean"}:
        node.problem("choice-options", f'"options" do not belong to the type {chosen}', "options")
    if len(options) > MAX_OPTIONS:
        node.problem("out-of-range", f"a question may have at most {MAX_OPTIONS} options", "options")
    asked = Asked(
        question_id,
        node.template("text"),
        next((kind for kind in SLOT_TYPES if kind == chosen), "text"),
        options,
        node.boolean("required", True),
    )
    node.finish()
    return asked
