"""What the clients of ``world`` talk to: a form, effects of each class, people, a call, digressions.

Milk takes one acceptance: the owner's or an operator's. Bread takes an answer, then two operators. ``help``
digresses into an effect; ``swap bread`` digresses and leaves another slot behind than the one that was shown.
"""

from functools import cache
from typing import Final

from server.engine.flow.loader import compile_flow
from server.engine.flow.model import Flow

BUY: Final = "shop.buy"
"""The write: nobody may do it twice, nor otherwise than it was approved."""

VERSIONS: Final = 3

_ERRAND: Final = """
flow: errand
default: true
timeout: 45s
interruptible_by: [help, swap]
slots:
  what: {type: choice, options: [milk, bread]}
variables: {found: null, when: null, hint: null, done: null, again: null, paid: null}
steps:
  - id: ask
    collect: [what]
    ask: {what: "What?"}
  - id: look
    action: shop.look
    effect: read
    with: {what: "${slots.what}"}
    retry: {max: 2, delay: 1s, on: [unavailable]}
    save: variables.found
    on_error: sorry
  - id: kind
    branch:
      - {if: "slots.what == 'bread'", goto: which}
      - {else: gate}
  - id: gate
    accept: {title: "Buy ${slots.what}?", by: {user: "${user.id}", scope: "acceptance:decide"}, editable: [slots.what], deadline: 20s, on_timeout: {decide: accept}}
    while_waiting: "It is being decided."
    accepted: buy
    rejected: sorry
  - id: which
    clarify: {questions: [{id: when, text: "When?", options: [now, later]}], deadline: 30s, on_timeout: both}
    save: variables.when
  - id: both
    accept: {title: "Buy ${slots.what}?", by: {scope: "acceptance:decide", quorum: 2}, deadline: 30s, on_timeout: {decide: reject}}
    accepted: buy
    rejected: sorry
  - id: buy
    action: shop.buy
    effect: write
    with: {what: "${slots.what}", hint: "${variables.hint}", version: VERSION}
    save: variables.done
    on_error: sorry
  - id: pay
    action: shop.pay
    effect: idempotent
    save: variables.again
  - {id: rest, call: pause_for_breath, save: variables.paid}
  - {id: thanks, say: "Done."}
  - {id: over, end: completed}
  - {id: sorry, say: "That went wrong."}
"""  # noqa: E501 - a line a request

BREATH: Final = """
flow: pause_for_breath
variables: {paid: null}
steps:
  - {id: breathe, wait: {event: paid, for: 5s}, save: variables.paid}
  - {id: out, end: completed, output: "${variables.paid}"}
"""

HELP: Final = """
flow: help
triggers: {intents: [{name: help, keywords: [help]}]}
variables: {seen: null}
steps:
  - {id: see, action: shop.look, effect: read, with: {what: help}, save: variables.seen}
  - {id: tell, say: "Say what to buy."}
"""

SWAP: Final = """
flow: swap
triggers: {intents: [{name: swap, keywords: [swap]}]}
slots:
  what: {type: choice, options: [milk, bread]}
steps:
  - {id: told, say: "Then ${slots.what}."}
"""


def sources(version: int) -> dict[str, str]:
    """Return the flows as they are published together; each version buys something else."""
    errand = _ERRAND.replace("VERSION", str(version))
    return {"errand": errand, "pause_for_breath": BREATH, "help": HELP, "swap": SWAP}


@cache
def compiled(version: int) -> list[tuple[Flow, int]]:
    """Return the flows of a version, compiled, each with its own version."""
    flows = [compile_flow(source, "test.yaml") for source in sources(version).values()]
    return [(flow, version if flow.flow_id == "errand" else 1) for flow in flows]
