"""The texts of new projects and flows. Tests run them: they compile, and the project answers."""

from collections.abc import Mapping
from typing import Final

_SETTINGS: Final = """\
# Settings of this project; docs/reference/settings.md of Parley lists them all.
actions = ["shop"]
"""

_FLOW: Final = """\
flow: order
description: Takes an order for tea or coffee
default: true
triggers:
  intents:
    - {name: order, keywords: [order, tea, coffee], examples: [I would like something to drink]}
slots:
  drink: {type: choice, options: [tea, coffee]}
  cups: {type: integer, validate: [{if: "value < 1 || value > 10", say: "One to ten cups, please."}]}
variables: {price: 0}
steps:
  - id: ask
    collect: [drink, cups]
    ask: {drink: "Tea or coffee?", cups: "How many cups?"}
  - id: price
    action: shop.price
    effect: read
    with: {drink: "${slots.drink}", cups: "${slots.cups}"}
    save: variables.price
  - {id: thanks, say: "${slots.cups} x ${slots.drink}: that is ${variables.price} euros. Thank you!"}
  - {id: done, end: completed}
"""

_ACTIONS: Final = '''\
"""Actions: plain functions, which flows call as `shop.NAME`. What they return must be JSON."""

PRICES = {"tea": 2.5, "coffee": 3}


async def price(context, drink, cups):
    return PRICES[drink] * cups
'''

_TESTS: Final = """\
actions:
  shop.price: {returns: 5}
tests:
  - name: An order is asked for what is missing, and priced
    conversation:
      - user: two cups of tea
        slots: {drink: tea}
        reply: How many cups?
      - user: "12"
        reply: {contains: One to ten cups}
      - user: "2"
        calls: [{action: shop.price, with: {drink: tea, cups: 2}}]
        reply: "2 x tea: that is 5 euros. Thank you!"
        status: completed
"""

PROJECT: Final[Mapping[str, str]] = {
    "parley.toml": _SETTINGS,
    "flows/order.yaml": _FLOW,
    "shop.py": _ACTIONS,
    "tests/order.yaml": _TESTS,
}
"""The files of a new project."""


def flow_text(flow_id: str) -> str:
    """Return a flow that compiles, asks one thing and says it again."""
    keyword = flow_id.replace("_", " ").replace("-", " ").strip() or "hello"
    return f"""\
flow: "{flow_id}"
description: What this flow is for, in a sentence
triggers:
  intents:
    - {{name: "{flow_id}", keywords: ["{keyword}"]}}
slots:
  name: {{type: text}}
steps:
  - id: ask
    collect: [name]
    ask: {{name: "What is your name?"}}
  - {{id: greet, say: "Hello ${{slots.name}}."}}
  - {{id: done, end: completed}}
"""
