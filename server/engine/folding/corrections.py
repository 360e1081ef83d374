"""Corrections: a message that gives another value to a slot that was filled before.

``No, Friday`` corrects at once; without such a beginning a message does where the open question can make
nothing of it. Only what rests on the corrected slot is undone: what steps that read it have saved,
transitively. The flow goes on at the earliest of them, in the order in which they were first entered, but
never goes back across a ``write``: what was done to the world is not undone by words.
"""

from collections.abc import Iterator
from typing import Final, Protocol

from server.engine.draft import Draft
from server.engine.flow.dependencies import rests_on
from server.engine.flow.model import Flow, Path, Slot, Step, StepCommon
from server.engine.flow.slots import Reading, read_slot
from server.engine.flow.words import find_phrases, fold, phrase_table, words_of
from server.engine.inputs import Incoming
from server.engine.reading import complaint
from server.engine.steps.base import Back, Outcome

_BEGINNINGS: Final = phrase_table(
    (phrase, "correction")
    for phrase in (
        *("no", "nope", "actually", "sorry", "wait", "rather", "instead", "correction", "i meant", "i mean"),
        *("make it", "make that", "change it to", "change that to"),
        *("nein", "eigentlich", "moment", "ich meinte", "doch lieber", "lieber"),
        *("non", "en fait", "plutôt", "pardon", "je voulais dire"),
        *("perdón", "mejor", "quise decir", "mejor dicho"),
    )
)


class AskingAgain(Protocol):
    """A step that waits for a message."""

    @property
    def common(self) -> StepCommon:
        """The fields that every step has."""
        ...

    def ask_again(self, draft: Draft) -> Outcome:
        """Return to the open question."""
        ...


def explicit_correction(draft: Draft, step: AskingAgain, incoming: Incoming) -> Outcome | None:
    """Take a message that begins as a correction does; None where it is none, or answers the question."""
    text = incoming.text
    if not text:
        return None
    words = words_of(text)
    if not words or words[0].text not in _BEGINNINGS:
        return None
    beginnings = find_phrases(words, _BEGINNINGS)
    if not beginnings or beginnings[0].first != 0 or beginnings[0].last >= len(words):
        return None
    rest = text[words[beginnings[0].last].start :]
    named = [name for name in draft.slots if name in draft.flow.slots and _names(rest, name)]
    asked = next((p.questions[0].id for p in draft.pending if p.kind == "input" and p.questions), None)
    open_slot = draft.flow.slots.get(asked) if asked is not None else None
    is_answerable = open_slot is not None and open_slot.type != "text" and (not named or asked in named)
    if open_slot is not None and is_answerable and _read(draft, open_slot, rest, focused=True) is not None:
        return None
    return correction(draft, step, rest)


def correction(draft: Draft, step: AskingAgain, text: str) -> Outcome | None:
    """Correct the filled slots to which ``text`` unmistakably gives other values; None: it does not."""
    changed: set[Path] = set()
    for slot, value in list(_other_values(draft, text)):
        why = complaint(draft, slot, value)
        if why is not None:
            draft.say(why)
            return step.ask_again(draft)
        draft.set_slot(slot.name, value)
        changed.add(("slots", slot.name))
    if not changed:
        return None
    target = _undo(draft, step, changed)
    return Back(target) if target is not None else step.ask_again(draft)


def _other_values(draft: Draft, text: str) -> Iterator[tuple[Slot, object]]:
    """Yield what the text gives to filled slots: a slot that it names first, else what was filled last.

    One mention is for one slot, and a value that the slot has already is no correction.
    """
    flow = draft.flow
    filled = [name for name in reversed(list(draft.slots)) if name in flow.slots]
    filled.sort(key=lambda name: not _names(text, name))
    spans: list[tuple[int, int]] = []
    for name in filled:
        slot = flow.slots[name]
        found = _read(draft, slot, text, focused=False) if slot.type != "text" else None
        if found is None or any(found.start < end and start < found.end for start, end in spans):
            continue
        spans.append((found.start, found.end))
        if found.value != draft.slots[name]:
            yield slot, found.value


def _read(draft: Draft, slot: Slot, text: str, *, focused: bool) -> Reading | None:
    before = draft.before
    return read_slot(
        slot, text, now_ms=draft.now, timezone=before.timezone, locale=before.locale, focused=focused
    )


def _names(text: str, name: str) -> bool:
    return f" {fold(name.replace('_', ' '))} " in f" {fold(text)} "


def _undo(draft: Draft, current: AskingAgain, changed: set[Path]) -> str | None:
    """Clear what rests on the names, and return the earliest step to go back to; None: go on asking."""
    flow, frame = draft.flow, draft.frames[-1]
    entered = [step_id for step_id in frame.visits if step_id in flow.index]
    behind = 0
    for place, step_id in enumerate(entered):
        if step_id != current.common.step_id and _may_have_written(draft, flow.step(step_id)):
            behind = place + 1
    reachable = entered[behind:]
    resting, saved = rests_on(flow.links, changed, reachable)
    for scope, name in sorted(saved - changed):
        if scope == "slots":
            if draft.slots.get(name) is not None:
                draft.set_slot(name, None)
        else:
            draft.set_variable(name, flow.variables.get(name))
    earliest = next((step_id for step_id in reachable if step_id in resting), None)
    return earliest if earliest != current.common.step_id else None


def _may_have_written(draft: Draft, step: Step, seen: tuple[str, ...] = ()) -> bool:
    """Tell whether a step that was entered is a ``write``, or calls a flow that has one."""
    if step.common.effect == "write":
        return True
    execution = draft.execution
    for flow_id in getattr(step, "subflows", tuple)():
        version = execution.subflows.get(flow_id) if execution is not None else None
        flow: Flow | None = draft.flows.version(flow_id, version) if version is not None else None
        inner = flow.steps if flow is not None and flow_id not in seen else ()
        if any(_may_have_written(draft, below, (*seen, flow_id)) for below in inner):
            return True
    return False
