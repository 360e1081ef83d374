"""``collect``: asks for slots, one after the other, until all are filled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from server.engine.draft import Draft, StepFailure, json_bytes
from server.engine.flow.dependencies import names_in
from server.engine.flow.expressions import Expression
from server.engine.flow.model import Path, Slot, StepCommon
from server.engine.flow.node import Node
from server.engine.flow.slots import Reading, explain, question_options, read_slot
from server.engine.flow.templates import Template
from server.engine.folding.corrections import correction
from server.engine.folding.requests import ask_input
from server.engine.inputs import Incoming
from server.engine.reading import complaint, fill_slots
from server.engine.steps.base import Fail, Goto, Next, Outcome, Wait
from storage.models import EVENT_MAX_BYTES, Pending, Question


@dataclass(frozen=True, slots=True)
class Collect:
    """``collect: [slot, ...]`` with ``ask: {slot: question}``, ``max_attempts`` and ``on_exhausted``.

    ``max_attempts`` counts the messages in a row that did not fit the open slot; then the step goes to
    ``on_exhausted``, or fails where there is none.
    """

    keyword: ClassVar[str] = "collect"
    common: StepCommon
    slots: tuple[str, ...]
    questions: Mapping[str, Template]
    max_attempts: int | None
    on_exhausted: str | None

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read which slots to ask for, and how."""
        slots = node.slot_names("collect")
        questions: dict[str, Template] = {}
        ask = node.mapping("ask") if node.has("ask") else None
        if ask is not None:
            for name in ask.keys():  # noqa: SIM118 - a Node is no dict
                questions[name] = ask.template(name)
                if name not in slots:
                    known = ", ".join(slots)
                    ask.problem(
                        "ask-unknown-slot",
                        f'"{name}" is not collected by this step.',
                        name,
                        f"one of: {known}",
                    )
        attempts = node.integer("max_attempts", 1, 100, None)
        return cls(common, slots, questions, attempts, node.target("on_exhausted"))

    def enter(self, draft: Draft) -> Outcome:
        """Ask for the first empty slot; with none empty the step is done."""
        for name in self.slots:
            if draft.slots.get(name) is None:
                return self._ask(draft, name)
        ask_input(draft, None)
        return Next()

    def ask_again(self, draft: Draft) -> Outcome:
        """Return to the open question."""
        return self.enter(draft)

    def read(self, draft: Draft, incoming: Incoming) -> Outcome | None:
        """Fill the open slot, unless it is of type text; and every other slot that the message names."""
        flow = draft.flow
        name = self._open(draft)
        if name is None:
            return self.enter(draft)
        slot = flow.slots[name]
        if slot.type == "text" and not self._is_button(draft, incoming):
            return None
        reading = read_slot(
            slot,
            incoming.said,
            now_ms=draft.now,
            timezone=draft.before.timezone,
            locale=draft.before.locale,
            focused=True,
        )
        filled = self._fill_others(draft, name, incoming, reading)
        if reading is None:
            return self.enter(draft) if filled else None
        return self._take(draft, slot, reading.value)

    def fall_back(self, draft: Draft, incoming: Incoming) -> Outcome:
        """Take the whole message as the text slot's value, or say what would fit."""
        name = self._open(draft)
        if name is None:
            return self.enter(draft)
        slot = draft.flow.slots[name]
        if slot.type == "text":
            return self._take(draft, slot, incoming.said.strip())
        corrected = correction(draft, self, incoming.text) if incoming.text else None
        if corrected is not None:
            return corrected
        before = draft.before
        why = explain(slot, incoming.said, now_ms=draft.now, timezone=before.timezone, locale=before.locale)
        return self._reject(draft, slot, why)

    def links(self, slots: Mapping[str, Slot]) -> list[tuple[frozenset[Path], frozenset[Path]]]:
        """Return for each slot what its answer rests on: the names in its question and in its rules."""
        return [(self._rests_on(slots[name]), frozenset([("slots", name)])) for name in self.slots]

    def _rests_on(self, slot: Slot) -> frozenset[Path]:
        question = self.questions.get(slot.name) or slot.prompt
        expressions = list(question.expressions) if question is not None else []
        for rule in slot.validate:
            expressions += [rule.if_, *rule.say.expressions]
        return names_in(expressions) - {("slots", slot.name)}

    def targets(self) -> tuple[str, ...]:
        """Return where it goes when the attempts are used up."""
        return (self.on_exhausted,) if self.on_exhausted is not None else ()

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions in its questions."""
        return tuple(
            expression for question in self.questions.values() for expression in question.expressions
        )

    def _open(self, draft: Draft) -> str | None:
        asked = next((p.questions[0].id for p in draft.pending if p.kind == "input"), None)
        if asked is not None and asked in draft.flow.slots:
            return asked
        return next((name for name in self.slots if draft.slots.get(name) is None), None)

    def _is_button(self, draft: Draft, incoming: Incoming) -> bool:
        return incoming.payload is not None and incoming.text is None

    def _fill_others(self, draft: Draft, focused: str, incoming: Incoming, taken: Reading | None) -> bool:
        """Fill the other slots that the message names; tell whether there were any."""
        before = draft.slots
        if incoming.text:
            fill_slots(draft, draft.flow, incoming.text, focused=focused, taken=taken)
        return draft.slots is not before

    def _take(self, draft: Draft, slot: Slot, value: object) -> Outcome:
        why = complaint(draft, slot, value)
        if why is not None:
            return self._reject(draft, slot, why)
        draft.set_slot(slot.name, value)
        self._forget_tries(draft)
        return self.enter(draft)

    def _reject(self, draft: Draft, slot: Slot, why: str) -> Outcome:
        frame = draft.frames[-1]
        tries = frame.tries.get(self.common.step_id, 0) + 1
        frame.tries = {**frame.tries, self.common.step_id: tries}
        if self.max_attempts is not None and tries >= self.max_attempts:
            ask_input(draft, None)
            if self.on_exhausted is not None:
                return Goto(self.on_exhausted)
            return Fail(
                StepFailure(f"There was no usable answer in {tries} attempts.", details={"slot": slot.name})
            )
        return self._ask(draft, slot.name, why)

    def _forget_tries(self, draft: Draft) -> None:
        frame = draft.frames[-1]
        if self.common.step_id in frame.tries:
            frame.tries = {name: n for name, n in frame.tries.items() if name != self.common.step_id}

    def _ask(self, draft: Draft, name: str, why: str | None = None) -> Outcome:
        slot = draft.flow.slots[name]
        question = self._question(draft, slot)
        if json_bytes(question) > EVENT_MAX_BYTES // 4:  # the event says it twice: prompt and question
            raise StepFailure("The question is too long to be asked.", details={"slot": name})
        options = question_options(slot)
        buttons = tuple({"title": option, "payload": option} for option in options)
        draft.say(question if why is None else f"{why} {question}", buttons)
        asked = Question(name, question, slot.type, options)
        pending = Pending(
            draft.new_id("p"),
            "input",
            self.common.step_id,
            prompt=question,
            questions=(asked,),
            created_at=draft.now,
            frame=draft.frames[-1].frame,
        )
        ask_input(draft, pending)
        return Wait("waiting_input")

    def _question(self, draft: Draft, slot: Slot) -> str:
        template = self.questions.get(slot.name) or slot.prompt
        if template is None:
            return f"{slot.name.replace('_', ' ').capitalize()}?"
        return template.render({} if template.is_constant else draft.context())
