"""Reading slots out of what was said, and judging the values by the flow's own rules."""

from server.engine.draft import Draft
from server.engine.flow.expressions import ExpressionFailed
from server.engine.flow.model import Flow, Slot
from server.engine.flow.slots import Reading, read_slot


def fill_slots(
    draft: Draft, flow: Flow, text: str, *, focused: str | None = None, taken: Reading | None = None
) -> None:
    """Fill every empty slot that ``text`` unmistakably names, except text ones and ``focused``.

    One mention fills one slot: ``taken`` is what ``focused`` was read from, and of two date slots the
    first that is declared gets the only date.
    """
    spans = [] if taken is None else [(taken.start, taken.end)]
    for name, slot in flow.slots.items():
        if name == focused or slot.type == "text" or draft.slots.get(name) is not None:
            continue
        reading = read_slot(
            slot,
            text,
            now_ms=draft.now,
            timezone=draft.before.timezone,
            locale=draft.before.locale,
            focused=False,
        )
        if reading is None or any(reading.start < end and start < reading.end for start, end in spans):
            continue
        if _fits(draft, slot, reading.value):
            draft.set_slot(name, reading.value)
            spans.append((reading.start, reading.end))


def complaint(draft: Draft, slot: Slot, value: object) -> str | None:
    """Return what the slot's validation says against ``value``, or None where it is fine."""
    for rule in slot.validate:
        context = draft.context(value=value)
        if rule.if_.test(context):
            return rule.say.render(context)
    return None


def _fits(draft: Draft, slot: Slot, value: object) -> bool:
    """Tell whether a value that was only overheard is valid; a rule that fails means no."""
    try:
        return complaint(draft, slot, value) is None
    except ExpressionFailed:
        return False
