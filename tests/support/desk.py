"""A till that asks before it takes the money: answers, an acceptance with edits, a call, deadlines.

The actions are ``till``'s. The deadlines are so short that they fall into the time in which a server is dead.
"""

from typing import Final

FLOW: Final = """
flow: desk
default: true
slots:
  item: {type: choice, options: [tea, coffee, milk]}
  count: {type: integer}
variables: {price: null, receipt: null, noted: null, when: null, paid: null}
steps:
  - id: ask
    collect: [item, count]
    ask: {item: "Tea, coffee or milk?", count: "How many?"}
  - id: which
    clarify: {questions: [{id: when, text: "Today or tomorrow?", options: [today, tomorrow]}], deadline: 200ms, on_timeout: look}
    save: variables.when
  - id: look
    action: till.look
    effect: read
    with: {item: "${slots.item}"}
    retry: {max: 3, delay: 10ms, on: [unavailable]}
    save: variables.price
    on_error: sorry
  - id: gate
    accept: {title: "Sell ${slots.item}?", by: {user: "${user.id}", scope: "acceptance:decide"}, editable: [slots.item], deadline: 250ms, on_timeout: {decide: accept}}
    while_waiting: "Somebody is looking at it."
    accepted: charge
    rejected: sorry
  - id: charge
    action: till.charge
    effect: write
    with: {item: "${slots.item}"}
    save: variables.receipt
    expose: true
    on_error: sorry
  - id: note
    action: till.note
    effect: idempotent
    save: variables.noted
    on_error: sorry
  - {id: rest, call: breath, save: variables.paid}
  - {id: thanks, say: "Here is your ${slots.item}.", goto: over}
  - {id: sorry, say: "That went wrong."}
  - {id: over, end: completed}
"""  # noqa: E501 - a line a request

BREATH: Final = """
flow: breath
steps:
  - {id: breathe, wait: {event: paid, for: 40ms}}
  - {id: out, end: completed}
"""

FLOWS: Final = {"desk": FLOW, "breath": BREATH}
"""The flows, by the name of their files."""
